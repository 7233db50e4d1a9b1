"""Which tree to draft, and whether to draft at all, from what calls have cost and emitted."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from sparrow_kernels.decoding.stats import DecodeStats
from sparrow_kernels.decoding.tree_config import TreeConfig

PLAIN = None
"""The choice not to speculate."""
Choice = TreeConfig | None

_TRIALS = 2
"""Calls that try a choice out: the first may have compiled kernels or captured graphs."""


@dataclass
class Seen:
    """What is known of one choice at one shape."""

    seconds_a_step: float = float("inf")
    """The least of all calls, which no other work has slowed down."""
    tokens: int = 0
    steps: int = 0
    calls: int = 0
    last_call: int = 0

    def tokens_a_second(self) -> float:
        """Of all requests of a call together."""
        return self.tokens / self.steps / self.seconds_a_step if self.steps else 0.0


@dataclass
class _Shape:
    """Calls of one shape: how many, and what each choice gave."""

    calls: int = 0
    seen: dict[Choice, Seen] = field(default_factory=dict)


class AutoTree:
    """Chooses for each call; made by `TreeConfig.auto`.

    Tries every candidate, and plain decoding, twice at each shape of call (number of requests,
    prompts of about the same length); from then on takes what emitted most tokens a second, and
    looks again at what was tried longest ago every `patience` calls, since texts change. So where
    speculation loses it stops, and where it would win again it returns.

    Calls of several threads may share one.
    """

    def __init__(self, candidates: Sequence[TreeConfig], patience: int = 32) -> None:
        if not candidates:
            raise ValueError("TreeConfig.auto: candidates must hold a tree, got none")
        if patience < 2:
            raise ValueError(f"TreeConfig.auto: patience must be 2 calls or more, got {patience}")
        self.candidates = tuple(candidates)
        self._patience = patience
        self._shapes: dict[Hashable, _Shape] = {}
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return f"auto({', '.join(map(str, self.candidates))})"

    @property
    def total(self) -> int:
        """Nodes of the largest candidate."""
        return max(tree.total for tree in self.candidates)

    def choose(self, requests: int, prompt_length: int) -> Choice:
        """The tree of a call; None to decode plainly."""
        with self._lock:
            shape = self._shape(requests, prompt_length)
            shape.calls += 1
            choice = self._chosen(shape)
            shape.seen[choice].last_call = shape.calls
            return choice

    def _chosen(self, shape: _Shape) -> Choice:
        choices = (*self.candidates, PLAIN)
        for choice in choices:
            seen = shape.seen.setdefault(choice, Seen())
            if seen.calls < _TRIALS:
                return choice
        if shape.calls % self._patience == 0:
            return min(choices, key=lambda each: shape.seen[each].last_call)
        return max(choices, key=lambda each: shape.seen[each].tokens_a_second())

    def learn(self, choice: Choice, prompt_length: int, stats: DecodeStats) -> None:
        """Take a call's result into account."""
        steps = max(row.target_calls for row in stats.rows)
        with self._lock:
            shape = self._shape(stats.requests, prompt_length)
            seen = shape.seen.setdefault(choice, Seen())
            seen.calls += 1
            if steps == 0:
                return
            seconds = sum(stats.seconds[phase] for phase in ("draft", "verify", "commit"))
            seen.seconds_a_step = min(seen.seconds_a_step, seconds / steps)
            if seen.steps > _FORGET_AFTER:  # what was long ago counts less
                seen.tokens, seen.steps = seen.tokens // 2, seen.steps // 2
            seen.tokens += sum(row.new_tokens - 1 for row in stats.rows)
            seen.steps += steps

    def _shape(self, requests: int, prompt_length: int) -> _Shape:
        return self._shapes.setdefault((requests, prompt_length.bit_length()), _Shape())


_FORGET_AFTER = 2_000
"""Steps of a choice whose acceptance is remembered whole."""
