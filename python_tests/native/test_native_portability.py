"""The CPU ops built for another processor, where a compiler for it is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-Wno-unused-parameter", "-Wno-psabi"]  # as CMakeLists.txt has them


def for_aarch64() -> list[str] | None:
    """A compiler that makes code for it, `pip install ziglang` is one; None where there is none."""
    if compiler := shutil.which("aarch64-linux-gnu-g++"):
        return [compiler]
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu"]
    return None


@pytest.mark.skipif(for_aarch64() is None, reason="no compiler for aarch64")
def test_builds_for_aarch64(tmp_path: Path) -> None:
    compiler = for_aarch64()
    assert compiler is not None
    for source in sorted((CHECKOUT / "csrc" / "cpu").glob("*.cpp")):
        made = tmp_path / f"{source.stem}.o"
        command = [*compiler, *FLAGS, f"-I{CHECKOUT / 'csrc'}", "-c", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert made.read_bytes()[18:20] == b"\xb7\x00"  # what the file says its processor is
