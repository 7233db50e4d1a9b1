"""What a launch of tree attention costs the host, and when it is compiled: a stubbed driver."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

STUB = Path(__file__).resolve().parents[1] / "cases/triton_stub.py"


ASKED = ("keys", "launched", "listened", "early", "microseconds")


@cache
def answers() -> list[Any]:
    """What the stub answers, in a process that does not interpret."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(STUB), *ASKED],
        capture_output=True, text=True, check=True, timeout=300,
        env={**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def asked(name: str) -> Any:
    return answers()[ASKED.index(name)]


@pytest.mark.slow
def test_nothing_but_the_tiles_is_compiled_anew():
    """Whatever the nodes, the batch, the capacity and where words and lengths begin: so a graph
    may be captured of a call whose tiles ran before."""
    first, later = asked("keys")
    assert first == 5  # three tiles, and a merge for few rows and one for many
    assert later == []


@pytest.mark.slow
def test_a_kept_launch_has_the_arguments_of_triton_s_own():
    calls = asked("launched")
    half = len(calls) // 2
    for first, again in zip(calls[:half], calls[half:], strict=True):
        assert first[2] == len(first[1]) and again[2] == 0
        for ours, kept in zip(first[1], again[1], strict=True):
            assert ours[:2] == kept[:2] and ours[18:] == kept[18:]  # pointers between
        (query, key, words, lengths), tree = again[0], again[1][0]
        assert tree[2:7] == [query, key, key, words, lengths]
    # Calls that differ in their splits alone are kept apart.
    assert calls[-1][1][0] != calls[-2][1][0]


@pytest.mark.slow
def test_who_listens_to_launches_hears_of_kept_ones():
    assert asked("listened") == [1, 1]


@pytest.mark.slow
def test_the_merge_begins_early_where_a_gpu_lets_it():
    assert asked("early") == [["splits_kernel"], []]


@pytest.mark.slow
def test_a_kept_launch_costs_the_host_less():
    by_triton, kept = asked("microseconds")
    assert kept < 0.8 * by_triton
