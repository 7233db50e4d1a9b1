"""What a run did and how long each phase took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

PHASES = ("prefill", "draft_prefill", "draft", "verify", "commit")


@dataclass
class DecodeStats:
    """Counted after cutting, so that they describe the returned text.

    `mean_emitted` is the paper's tau; it counts the bonus token.
    """

    new_tokens: int = 0
    target_calls: int = 0
    """Forward passes of the target, without the prefill."""
    histogram: list[int] = field(default_factory=list)
    """Index k: steps that emitted k tokens."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    cache_bytes: int = 0
    """Keys and values held at the end: the target's, and the draft's if there was one."""

    @property
    def mean_emitted(self) -> float | None:
        """Tokens a target call emitted, on average; None where there was no call."""
        return (self.new_tokens - 1) / self.target_calls if self.target_calls else None

    def count_step(self, emitted: int) -> None:
        """Count one verification that emitted `emitted` tokens."""
        self.target_calls += 1
        self.new_tokens += emitted
        self.histogram += [0] * (emitted + 1 - len(self.histogram))
        self.histogram[emitted] += 1


class PhaseTimer:
    """Adds up the seconds of each phase: the clock on a CPU, events on a GPU, no sync in a step."""

    def __init__(self, stats: DecodeStats, device: torch.device) -> None:
        self._stats = stats
        self._cuda = device.type == "cuda"
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute the block to the phase `name`."""
        if self._cuda:
            start = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
            return
        began = time.perf_counter()
        yield
        self._stats.seconds[name] += time.perf_counter() - began

    def finish(self) -> None:
        """Read the events; waits for the device once, at the end."""
        if self._events:
            torch.cuda.synchronize()
        for name, start, end in self._events:
            self._stats.seconds[name] += start.elapsed_time(end) / 1e3
        self._events.clear()
