"""What a run did and how long each phase took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

PHASES = ("prefill", "draft_prefill", "draft", "verify", "commit")


@dataclass
class RequestStats:
    """Of one request."""

    new_tokens: int = 0
    target_calls: int = 0
    histogram: list[int] = field(default_factory=list)
    reused_slots: int = 0

    @property
    def mean_emitted(self) -> float | None:
        return (self.new_tokens - 1) / self.target_calls if self.target_calls else None


@dataclass
class DecodeStats:
    """Counted after cutting, so that they describe the returned text.

    Of a batch, what belongs to a request is a list with an entry for each.
    """

    requests: int = 1
    tree: str | None = None
    """What was drafted, as in `30-4-8`; None for plain decoding."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    """Of each phase, all requests together."""
    cache_bytes: int = 0
    """Keys and values held at the end: the target's, and the draft's if there was one."""
    rows: list[RequestStats] = field(default_factory=list)
    """One for each request."""

    def __post_init__(self) -> None:
        self.rows = self.rows or [RequestStats() for _ in range(self.requests)]
        self.requests = len(self.rows)

    @property
    def new_tokens(self) -> Any:
        """Tokens emitted."""
        return self._of_each("new_tokens")

    @property
    def target_calls(self) -> Any:
        """Forward passes of the target that a request took part in, without the prefill."""
        return self._of_each("target_calls")

    @property
    def histogram(self) -> Any:
        """Index k: steps that emitted k tokens."""
        return self._of_each("histogram")

    @property
    def mean_emitted(self) -> Any:
        """Tokens a target call emitted, on average, the bonus token included: the paper's tau.
        None where there was no call."""
        return self._of_each("mean_emitted")

    @property
    def reused_slots(self) -> Any:
        """Slots of the prompt that an earlier call had run."""
        return self._of_each("reused_slots")

    def count_step(self, request: int, emitted: int) -> None:
        """Count one verification that emitted `emitted` tokens of a request."""
        row = self.rows[request]
        row.target_calls += 1
        row.new_tokens += emitted
        row.histogram += [0] * (emitted + 1 - len(row.histogram))
        row.histogram[emitted] += 1

    def _of_each(self, name: str) -> Any:
        values = [getattr(row, name) for row in self.rows]
        return values[0] if self.requests == 1 else values


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

    @property
    def seconds(self) -> dict[str, float]:
        """Of each phase, as far as `finish` has read."""
        return dict(self._stats.seconds)

    def finish(self) -> None:
        """Read the events; waits for the device once, at the end."""
        if self._events:
            torch.cuda.synchronize()
        for name, start, end in self._events:
            self._stats.seconds[name] += start.elapsed_time(end) / 1e3
        self._events.clear()
