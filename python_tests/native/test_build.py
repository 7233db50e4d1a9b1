"""What setup.py builds, and what it says where it cannot: run as pip runs it, compiling nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import build_backend
from build_backend import Torch, installed_torch

CHECKOUT = Path(__file__).resolve().parents[2]
NO_COMPILER = "/nowhere/c++"


def run_setup(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`build_py` into a folder of its own; without native code that is the whole build."""
    command = ["egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", tmp_path / "lib"]
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", *map(str, command)],
        cwd=CHECKOUT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"SPARROW_BUILD_NATIVE": "0"}, "SPARROW_BUILD_NATIVE=0"),
        ({"SPARROW_BUILD_NATIVE": "auto", "CXX": NO_COMPILER}, "a C++ compiler"),
    ],
    ids=["left out by name", "no compiler"],
)
def test_a_pure_python_build_says_so_once(
    tmp_path: Path, environment: dict[str, str], reason: str
) -> None:
    result = run_setup(tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("sparrow_kernels: pure Python, since") == 1
    assert reason in result.stdout
    built = tmp_path / "lib" / "sparrow_kernels"
    assert (built / "py.typed").exists()
    assert (built / "ops" / "native.py").exists()
    assert not list(built.rglob("*.so"))


def test_a_native_build_that_was_asked_for_fails_with_a_hint(tmp_path: Path) -> None:
    result = run_setup(tmp_path, SPARROW_BUILD_NATIVE="1", CXX=NO_COMPILER)
    assert result.returncode != 0
    assert "SPARROW_BUILD_NATIVE=1, but this is missing: a C++ compiler" in result.stderr
    assert "apt-get install g++" in result.stderr


def test_a_misspelt_choice_is_refused(tmp_path: Path) -> None:
    result = run_setup(tmp_path, SPARROW_BUILD_NATIVE="yes")
    assert result.returncode != 0
    assert "SPARROW_BUILD_NATIVE must be auto, 0 or 1, got 'yes'" in result.stderr


def fake_torch(folder: Path, version: str, cuda: str) -> Path:
    root = folder / "torch"
    (root / "include").mkdir(parents=True)
    lines = f"__version__ = '{version}'\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = None\n"
    (root / "version.py").write_text(lines)
    return root


def test_an_isolated_build_takes_the_torch_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There nothing can be imported; a torch is asked for only where none lies, or one too old."""
    monkeypatch.setattr(build_backend, "find_spec", lambda name: None)
    monkeypatch.setattr(build_backend.sysconfig, "get_path", lambda name: str(tmp_path))
    requires = build_backend.get_requires_for_build_wheel
    assert build_backend.TORCH in requires() and installed_torch() is None
    root = fake_torch(tmp_path, "2.13.0+cpu", "None")
    assert installed_torch() == Torch(root, "2.13.0+cpu", None)
    assert build_backend.TORCH not in requires()
    assert build_backend.TORCH not in build_backend.get_requires_for_build_editable()
    shutil.rmtree(root)
    fake_torch(tmp_path, "2.9.1", "'12.8'")
    assert build_backend.TORCH in requires()
    elsewhere = fake_torch(tmp_path / "named", "2.11.0+cu130", "'13.0'")
    monkeypatch.setenv("SPARROW_BUILD_TORCH", str(elsewhere))
    assert installed_torch() == Torch(elsewhere, "2.11.0+cu130", "13.0")


@pytest.mark.parametrize(
    ("cuda", "asked", "chosen"),
    [("None", "auto", "0"), ("None", "1", "1"), ("'13.0'", "auto", "auto"), ("'13.0'", "0", "0")],
)
def test_cuda_is_compiled_beside_a_torch_for_it_or_when_asked_for(
    tmp_path: Path, cuda: str, asked: str, chosen: str
) -> None:
    root = fake_torch(tmp_path, "2.13.0", cuda)
    code = "import sys, setuptools; setuptools.setup = lambda **_: None; import setup;"
    code += " print('chosen', setup.cuda_choice())"
    settings = {"SPARROW_BUILD_TORCH": str(root), "SPARROW_BUILD_CUDA": asked}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith(f"chosen {chosen}\n")
    assert ("is a CPU build, so CUDA is not compiled" in done.stdout) == (chosen != asked)
