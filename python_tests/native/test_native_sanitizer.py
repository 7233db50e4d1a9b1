"""The suite's sanitizer part over a planted tool and Python: what runs, and what is said of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="no coreutils' timeout")

HAS_GPU_TESTS = r"^(pytestmark = pytest.mark.gpu|@pytest.mark.gpu|def test.*library: Library)"
TOOL = """#!/bin/sh
tool=$2
shift 4
case "$*" in *"-m pytest"*) echo "$tool $*" >>"$SAID" ;; *) exit 0 ;; esac
echo "========= COMPUTE-SANITIZER"
echo "output of $tool"
case "$tool $*" in $FAILS) exit 9 ;; $LASTS) exec sleep 30 ;; *) exec sleep 1 ;; esac
"""


def run(folder: Path, fails: str = "none", lasts: str = "none") -> tuple[int, str, str, float]:
    """Its status, what it printed, what the tool was asked for, and the seconds it took."""
    for name, text in {"compute-sanitizer": TOOL, "python": "#!/bin/sh\nexit 0\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    began = time.monotonic()
    done = subprocess.run(
        ["bash", ROOT / "bench/suite/sanitizer.sh"],
        cwd=ROOT,
        env=os.environ
        | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHON": str(folder / "python")}
        | {"SAID": str(folder / "said"), "FAILS": fails, "LASTS": lasts, "SANITIZER_SECONDS": "5"},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - began
    return done.returncode, done.stdout, (folder / "said").read_text(), seconds


@pytest.mark.slow
def test_tools_run_side_by_side_over_every_native_test(tmp_path: Path) -> None:
    status, printed, asked, seconds = run(tmp_path)
    assert status == 0, printed
    assert seconds < len(asked.splitlines())  # each takes one
    words = printed.splitlines()[-1].split("; ")
    assert len(words) == len(asked.splitlines()) + 1 and all("passed" in w for w in words[:-1])
    with_gpu_tests = {
        path.name
        for path in (ROOT / "python_tests/native").glob("test_native_*.py")
        if re.search(HAS_GPU_TESTS, path.read_text(), re.MULTILINE)
    }
    checked = dict.fromkeys(("synccheck", "racecheck", "memcheck", "initcheck"), "")
    for line in asked.splitlines():
        checked[line.split()[0]] += line
    assert all(name in checked["synccheck"] for name in with_gpu_tests)
    but_threads = with_gpu_tests - {"test_native_threads.py"}
    assert all(name in checked["racecheck"] for name in but_threads)
    assert all(name in checked["memcheck"] for name in but_threads)
    assert "test_triton_tree.py" in checked["memcheck"]
    files = {word for line in asked.splitlines() for word in line.split() if word.endswith(".py")}
    assert all((ROOT / name).is_file() for name in files)


@pytest.mark.slow
def test_one_that_finds_something_fails_the_part(tmp_path: Path) -> None:
    status, printed, _, _ = run(tmp_path, fails="racecheck*residual*")
    assert status == 1
    assert printed.count("FAILED") == 2  # at its own output, and in the last line
    assert "racecheck of the residual walk FAILED" in printed.splitlines()[-1]
    assert "output of racecheck" in printed


@pytest.mark.slow
def test_one_that_takes_too_long_is_cut_and_the_others_are_told(tmp_path: Path) -> None:
    status, printed, _, seconds = run(tmp_path, lasts="initcheck*")
    assert status == 1 and seconds < 20
    assert "initcheck of steps cut at 5 s" in printed.splitlines()[-1]
    assert "synccheck of everything native passed" in printed.splitlines()[-1]
