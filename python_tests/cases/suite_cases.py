"""The frame of `bench/gpu_suite.sh` over planted parts, for its tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = Path("bench/gpu_suite.sh")
MOST_FILES = 8
MOST_SECONDS = 600


def run(
    root: Path, out: Path | str, *words: str, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PEER_WHEELS"}
    return subprocess.run(
        ["bash", root / SUITE, *words],
        env=clean | {"PYTHON": python, "OUT": str(out), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A checkout of the frame alone, all of whose parts pass, and a Python that is quick."""
    (tmp_path / "bench/suite").mkdir(parents=True)
    shutil.copy(ROOT / SUITE, tmp_path / SUITE)
    for part in limits():
        plant(tmp_path, part, f"echo; echo all of {part} is well; echo")
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f"""#!/bin/sh
case "$*" in
  -) echo "no GPU in this test" ;;
  "-m bench."*) echo "$*" ;;
  *) exec {sys.executable} -S "$@" ;;
esac
"""
    )
    stand_in.chmod(0o755)
    return tmp_path


def plant(root: Path, part: str, script: str) -> None:
    (root / f"bench/suite/{part}.sh").write_text(script)


def run_planted(root: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(root, root / "out", *words, python=str(root / "python"), **environment)


def limits(of: str = "") -> dict[str, int]:
    """Each part's limit, or those of the parts of `--quick`."""
    done = subprocess.run(
        ["bash", ROOT / SUITE, "--list"], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    column = 2 if of == "quick" else 1
    return {line[0]: int(line[column]) for line in lines if line[column] != "-"}


def words_of(summary: str) -> dict[str, str]:
    """What the summary says of each part."""
    lines = [line for line in summary.splitlines() if line.split(" ")[0] in limits()]
    return {line[:16].strip(): line[17:28].strip() for line in lines}
