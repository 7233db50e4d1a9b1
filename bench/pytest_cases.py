"""The cases of a quick run for those who live in pytest: through the same gate, then timed.

    pytest bench/pytest_cases.py --benchmark-only [-k topk] [--benchmark-compare]

On a GPU each call is waited for, so small ones show what a launch costs; `python -m bench.run`
times graph replays with cold inputs, and its numbers are the ones to quote. Plain `pytest` leaves
this file alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch

import sparrow_kernels
from bench import gate, registry
from bench.case import Case, Way
from bench.selection import Selection

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _parameters() -> Iterator[Any]:
    for case in registry.cases(Selection(DEVICE.type, "quick")):
        for way in [*case.ours(DEVICE), *case.peers(DEVICE)]:
            marks = [pytest.mark.skip(reason=way.unavailable)] if way.unavailable else []
            if not way.compiles:
                words = f"{case.op}-{case.name}-{way.name}".replace(" ", "-")
                yield pytest.param(case, way, id=words, marks=marks)


@cache
def _expected(case: Case) -> gate.Expected:
    return gate.expected(case, DEVICE)


@pytest.mark.parametrize(("case", "way"), list(_parameters()))
def test_case(benchmark: Any, case: Case, way: Way) -> None:
    benchmark.group = f"{case.op} {case.name} {case.dtype}"
    needs_grad = getattr(case, "passes", "forward") != "forward"
    with torch.set_grad_enabled(needs_grad), sparrow_kernels.checks(False), way.chosen():
        refusal = gate.refusal(case, way, DEVICE, _expected(case))
        assert refusal is None, refusal
        arguments = case.arguments(DEVICE, seed=0)
        call = _waiting(way.prepare(arguments))
        reset = case.reset(arguments)
        if reset is None:
            benchmark(call)
        else:
            benchmark.pedantic(call, setup=_waiting(reset), rounds=100, warmup_rounds=5)


def _waiting(call: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return run
