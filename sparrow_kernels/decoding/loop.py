"""The decoding loop, over any target and draft, for any number of requests.

    until every request is finished:
        draft     refresh the draft with what was committed; grow a tree of tokens
        verify    one forward of the target over the trees
        commit    accept a path of each tree, keep its keys and values, drop the rest
        emit      the one copy to the host: append, stream, and see who is finished

Without a draft a tree is its root alone: plain decoding is this loop too. What is emitted is
decided by the target alone, so a draft can change the time it takes and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from torch import Tensor

from sparrow_kernels.decoding.protocols import Draft, Target
from sparrow_kernels.decoding.step import Step


class Cut(NamedTuple):
    """A request that ended before its path did."""

    request: int
    slots: int
    """Committed slots it keeps, as plain decoding would have left them."""


class Emission(Protocol):
    """The host's side: sequences, and where they stop."""

    @property
    def finished(self) -> bool:
        """Whether every request is."""

    def take(self, emitted: Tensor) -> tuple[list[int], list[Cut]]:
        """Emit what a step decided, `[B, 1 + S]`; the requests that it finished, and their cuts."""

    def slots_for(self, tokens: int) -> int:
        """Cache slots a request may need for `tokens` more, prompts and room to grow included."""

    @property
    def new_token_room(self) -> int:
        """New tokens a request has room for."""


class Phases(Protocol):
    """Who wants to know how long the parts of a step take."""

    def phase(self, name: str) -> AbstractContextManager[None]: ...


class StepParts(Protocol):
    """The parts of a step: a `Step`'s own, or graphs of them."""

    def draft(self) -> None: ...
    def verify(self) -> None: ...
    def commit(self) -> None: ...
    def moved(self) -> None: ...


def decode(
    step: Step,
    target: Target,
    draft: Draft | None,
    emission: Emission,
    phases: Phases,
    parts: StepParts | None = None,
    observe: Callable[[Step], None] | None = None,
) -> None:
    """Decode until every request of `emission` is finished.

    Args:
        step: the device's side, begun with what the prefill emitted.
        target, draft: whose buffers grow with the sequences.
        emission: the host's side.
        phases: told of `draft`, `verify` and `commit`.
        parts: what runs the step's parts, where it is not the step.
        observe: called after each step has been emitted.
    """
    parts = step if parts is None else parts
    while not emission.finished:
        moved = target.enlarge(emission.slots_for(step.emitted.shape[1]) + step.nodes)
        if draft is not None:
            moved |= draft.enlarge(emission.new_token_room)
        if moved:
            parts.moved()
        with phases.phase("draft"):
            parts.draft()
        with phases.phase("verify"):
            parts.verify()
        with phases.phase("commit"):
            step.toss()
            parts.commit()
            finished, cuts = emission.take(step.emitted)
            step.idle(finished)
            for cut in cuts:
                target.prefix_lens[cut.request].fill_(cut.slots)
        if observe is not None:
            observe(step)
