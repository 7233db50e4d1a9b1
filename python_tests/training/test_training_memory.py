"""A step's memory follows the length of what it reads, and no more."""

from __future__ import annotations

import pytest
from step_memory import peaks


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "slots", "text", "target"])
def test_memory_is_linear(kind: str) -> None:
    """A clip past `fc`, a clip as rows, a text all of which counts, and the target's own pass."""
    # The target's pass takes time as the square of the length. A clip takes so little memory that
    # below 8k tokens what the answer takes is seen beside it.
    longest = {"target": 4_000, "text": 8_000}.get(kind, 32_000)
    quarter, half, whole = peaks(kind, [longest // 4, longest // 2, longest])
    # Weights, gradients and the answer's rows take what they take at any length. What a doubling of
    # the tokens adds doubles with each; were it of pairs of tokens, it would grow four times. (A
    # byte for each pair, as a mask has, already makes it 2.2.)
    assert (whole - half) / (half - quarter) == pytest.approx(2, rel=0.04)
