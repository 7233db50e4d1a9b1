"""How long a call takes: graph replay on a GPU, interleaved medians on a CPU.

GPU: copies of the call are captured in two CUDA graphs, one three times as long as the other. The
difference of their replay times, over the difference of their copies, is the time of a call, with
what a replay costs by itself subtracted. Copies rotate over the sets of arguments given, so that
with enough of them the inputs are cold; nothing is written in between to flush a cache, whose
write-back would land inside the measured kernel. A slow call gets fewer copies and replays.
Back-to-back copies measure latency only while a kernel waits for the one before it to end: a call
whose first kernel is launched early would need one that depends on it in between.

On either, ways take turns, in an order that rotates: what slows the machine down for a while then
slows all of them. On a CPU a turn is a batch of calls long enough for the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

Call = Callable[[], Any]

_SHORTEST_BATCH = 1e-3
"""Seconds of calls between two readings of a CPU's clock."""
_COPIES = 20
_LONGER = 3
"""How many times as long the longer graph is."""
_PAIR_MS = 20.0
"""Milliseconds that a replay of both graphs should take at most, and"""
_PAIRS_MS = 400.0
"""all of them together, where the fewest copies and samples do not take longer."""
_FEWEST_SAMPLES = 5
_EAGER_CALLS = 48
_EAGER_QUEUE = 8
"""Calls in a row without waiting for the GPU: few enough for a launch never to wait for room."""


class Timing(NamedTuple):
    """Microseconds a call: percentiles over `samples` independent measurements."""

    p20: float
    p50: float
    p80: float
    samples: int

    @classmethod
    def of(cls, microseconds: Sequence[float]) -> Timing:
        ordered = sorted(microseconds)

        def at(share: float) -> float:
            place = share * (len(ordered) - 1)
            low = int(place)
            high = min(low + 1, len(ordered) - 1)
            return ordered[low] + (place - low) * (ordered[high] - ordered[low])

        return cls(at(0.2), at(0.5), at(0.8), len(ordered))

    def less(self, microseconds: float) -> Timing:
        """This, without a part of it that was measured by itself."""
        p20, p50, p80, samples = self
        return Timing(p20 - microseconds, p50 - microseconds, p80 - microseconds, samples)

    @property
    def spread(self) -> float:
        return self.p80 - self.p20


def interleaved(
    calls: Mapping[str, Call],
    *,
    around: Callable[[str], AbstractContextManager] = lambda name: nullcontext(),
    seconds: float = 1.0,
    rounds: int = 25,
) -> dict[str, Timing]:
    """Time `calls` on this CPU in turns, for about `seconds` in all, in at least 5 rounds.

    Args:
        calls: by name; each is called twice before, unmeasured.
        around: what to enter, outside the clock, before calling the one of that name.
        seconds: what all of it may take, where 5 rounds take less.
        rounds: at most so many.
    """
    repeats = {}
    for name, call in calls.items():
        with around(name):
            call()
            repeats[name] = max(1, round(_SHORTEST_BATCH / max(_seconds(call, 1), 1e-7)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    start = time.perf_counter()
    for turn in range(rounds):
        if turn >= 5 and time.perf_counter() - start > seconds:
            break
        for name in order:
            with around(name):
                spent = _seconds(calls[name], repeats[name])
            found[name].append(1e6 * spent / repeats[name])
        order = order[1:] + order[:1]
    return {name: Timing.of(each) for name, each in found.items()}


def _seconds(call: Call, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - began


class Captured(NamedTuple):
    """A call on different sets of arguments in turn, in graphs of two lengths."""

    short: torch.cuda.CUDAGraph
    long: torch.cuda.CUDAGraph
    copies: int
    """In the short one."""
    samples: int
    """How many differences of the two it is worth."""
    undoing: Captured | None
    """What has to run before each copy, by itself: its time is subtracted."""
    calls: Sequence[Call]
    """Kept, for what they own (masks, indices) is read by every replay."""

    def time(self, read_clock: Callable[[], float | None] = lambda: None) -> tuple[float, Any]:
        """Microseconds of a call, once, and what the clock said while the GPU was at it."""
        short, _ = _replay_time(self.short)
        long, clock = _replay_time(self.long, read_clock)
        spent = 1e3 * (long - short) / ((_LONGER - 1) * self.copies)
        if self.undoing is not None:
            spent -= self.undoing.time()[0]
        return spent, clock


class Replays(NamedTuple):
    """What replays of one call took."""

    timing: Timing
    megahertz: tuple[float, ...]
    """Of the multiprocessors at each of them, where it is known."""


def captured(
    calls: Sequence[Call], resets: Sequence[Call] | None = None, *, samples: int = 25
) -> Captured:
    """Capture a call on the current CUDA device.

    Args:
        calls: the same call on different sets of arguments, used in turn.
        resets: for each, what has to run before it is called again: a kernel, since what follows a
            copy node starts later than what follows a kernel.
        samples: pairs of replays, at most.

    Raises:
        RuntimeError: a call waits for the GPU, so it cannot be captured.
    """
    undoing = None
    if resets is not None:
        undoing = captured(resets, samples=samples)
        calls = [after(*pair) for pair in zip(resets, calls, strict=True)]
    once = _warmed_up(calls)
    copies = min(_COPIES, max(1, int(_PAIR_MS / ((1 + _LONGER) * once))))
    copies = -(-copies // len(calls)) * len(calls)  # every set as often as the others
    pairs = int(_PAIRS_MS / ((1 + _LONGER) * copies * once))
    samples = min(samples, max(_FEWEST_SAMPLES, pairs))
    short = _graph(calls, copies)
    # They never run at once, and what they leave behind nobody reads: one memory is enough.
    long = _graph(calls, _LONGER * copies, short.pool())
    return Captured(short, long, copies, samples, undoing, calls)


def alternated(
    ways: Mapping[str, Captured], read_clock: Callable[[], float | None] = lambda: None
) -> dict[str, Replays]:
    """Replay all of them in turns."""
    found: dict[str, list[tuple[float, Any]]] = {name: [] for name in ways}
    order = list(ways)
    for turn in range(max((way.samples for way in ways.values()), default=0)):
        for name in order:
            if turn < ways[name].samples:
                try:
                    found[name].append(ways[name].time(read_clock))
                except RuntimeError as error:  # the device is lost to all: say to whom
                    raise RuntimeError(f"a replay of {name}: {error}") from error
        order = order[1:] + order[:1]
    return {
        name: Replays(
            Timing.of([spent for spent, _ in each]),
            tuple(clock for _, clock in each if clock is not None),
        )
        for name, each in found.items()
    }


def replayed(calls: Sequence[Call], *, samples: int = 25) -> Timing:
    """Time one call on the current CUDA device by graph replay."""
    return alternated({"call": captured(calls, samples=samples)})["call"].timing


def host_time(
    calls: Sequence[Call],
    resets: Sequence[Call] | None = None,
    *,
    wait: Call = lambda: torch.cuda.synchronize(),
) -> float:
    """Microseconds of the host a call that is not captured takes, all its launches: the median."""
    spent = []
    for turn in range(_EAGER_CALLS):
        if turn % _EAGER_QUEUE == 0:
            wait()
        if resets is not None:
            resets[turn % len(calls)]()
        spent.append(1e6 * _seconds(calls[turn % len(calls)], 1))
    wait()
    return Timing.of(spent).p50


def after(first: Call, second: Call) -> Call:
    """A call of `first` and then `second`."""

    def run() -> None:
        first()
        second()

    return run


def _warmed_up(calls: Sequence[Call]) -> float:
    """Do whatever is done once, on the first call; milliseconds of a later one, not captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
        # A call that waits for the GPU has to be found here: torch does not recover whole from a
        # capture that failed.
        torch.cuda.set_sync_debug_mode("error")
        try:
            calls[0]()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        stream.synchronize()
        began.record()
        calls[0]()
        ended.record()
        ended.synchronize()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    return max(began.elapsed_time(ended), 1e-3)


def _graph(calls: Sequence[Call], copies: int, pool: Any = None) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    # The outer one restores the stream: the inner one does not where a capture fails.
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, pool):
        for copy in range(copies):
            calls[copy % len(calls)]()
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    return graph


def _replay_time(
    graph: torch.cuda.CUDAGraph, read_clock: Callable[[], float | None] = lambda: None
) -> tuple[float, float | None]:
    """Milliseconds, and the clock under way: it falls as soon as there is nothing to do."""
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    graph.replay()
    ended.record()
    clock = read_clock()
    ended.synchronize()
    return began.elapsed_time(ended), clock
