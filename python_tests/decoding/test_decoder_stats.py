"""What is counted of a run, step by step."""

from __future__ import annotations

from sparrow_kernels.decoding import DecodeStats


def test_a_histogram_ends_with_the_longest_step() -> None:
    stats = DecodeStats(requests=2)
    for emitted in (2, 1, 4, 2):
        stats.count_step(1, emitted)
    assert stats.histogram == [[], [0, 1, 2, 0, 1]]
    assert stats.target_calls == [0, 4] and stats.new_tokens == [0, 9]
