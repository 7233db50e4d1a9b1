"""SPARROW_AUTOTUNE=1: time a few ways to cut a call on the GPU at hand, and remember the fastest.

Off by default: it makes the first call of every shape slow, and the bits of a result depend on
what was fastest that day. A call that names `num_splits` asks for the same bits every time and is
left alone; so is one that is being captured into a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from sparrow_kernels.ops import env

_REPEATS = 7

Way = TypeVar("Way")


def asked_for(device: torch.device) -> bool:
    """Whether calls on this device may be timed now."""
    return env.autotune() and device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def fastest(ways: Iterable[Way], run: Callable[[Way], None]) -> Way:
    """The way whose median time is least; each runs once before, to be compiled."""
    return min(ways, key=lambda way: _median_milliseconds(lambda: run(way)))


def _median_milliseconds(run: Callable[[], None]) -> float:
    run()
    times = []
    for _ in range(_REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[_REPEATS // 2]
