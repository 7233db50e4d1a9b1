"""What setup.py builds, and what it says where it cannot: run as pip runs it, compiling nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
