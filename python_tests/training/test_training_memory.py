"""A step's memory follows the length of what it reads, and no more."""

from __future__ import annotations

import subprocess
import sys

import pytest
import step_memory
from test_training_processes import environment


def peak(kind: str, length: int) -> int:
    command = [sys.executable, step_memory.__file__, kind, str(length)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("kind", ["clip", "slots", "text", "target"])
def test_memory_is_linear_up_to_16k_tokens(kind: str) -> None:
    """A clip past `fc`, a clip as rows, a text all of which counts, and the target's own pass."""
    # The target's pass takes time as the square of the length.
    longest = 8_000 if kind == "target" else 16_000
    quarter, half, whole = (peak(kind, longest // part) for part in (4, 2, 1))
    # Weights, gradients and the answer's rows take what they take at any length. What a doubling of
    # the tokens adds doubles with each; were it of pairs of tokens, it would grow four times.
    assert (whole - half) / (half - quarter) == pytest.approx(2, rel=0.1)
