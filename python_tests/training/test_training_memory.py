"""A step's memory follows the length of what it reads, and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import step_memory
from test_training_processes import environment

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)


def peak(kind: str, length: int) -> int:
    command = [sys.executable, step_memory.__file__, kind, str(length)]
    settings = {**environment(), "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("kind", ["clip", "slots", "text", "target"])
def test_memory_is_linear_up_to_16k_tokens(kind: str) -> None:
    """A clip past `fc`, a clip as rows, a text all of which counts, and the target's own pass."""
    # The target's pass takes time as the square of the length.
    longest = 8_000 if kind == "target" else 16_000
    growth = peak(kind, longest) / peak(kind, longest // 8)
    # Eight times the tokens may take a tenth more than eight times the memory. They take less by
    # what does not depend on the length, which differs between machines.
    assert 5 < growth < 8.8
