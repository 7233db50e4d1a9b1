"""What a step did for a request, as plain numbers: for whoever wants to look on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StepTrace:
    """One step of one request. Node 0 is the root, the last token emitted before the step."""

    request: int
    step: int
    """From 0, counted by request."""
    tokens: list[int]
    """`[T]` of each node of the drafted tree."""
    parent: list[int]
    """`[T]`, -1 at the root."""
    depth: list[int]
    """`[T]`, 0 at the root."""
    draft_log_probs: list[float] | None
    """`[T]` what the draft gives the path to each node, 0 at the root; None without a draft."""
    target_log_probs: list[float]
    """`[T]` what the target gives each node after its parent, logits processors applied unless they
    read the ids before; 0 at the root."""
    path: list[int]
    """Nodes accepted, root first; not cut where the text ends within it."""
    emitted: list[int]
    """Tokens the step has added to the text: those of the path behind the root, and unless the text
    ended before, the target's own, `bonus`."""
    emitted_log_probs: list[float]
    """What the target gives each of them."""
    committed: int
    """Slots of the target's cache that are committed after the step."""
    draft_committed: int | None
    """The same of the draft, whose last refresh was before this step; None without one."""
    seconds: dict[str, float]
    """`draft`, `verify` and `commit` of the step, all requests together."""

    @property
    def accepted(self) -> list[int]:
        """Drafted nodes whose tokens are in the text, from the root down."""
        return self.path[1 : len(self.emitted) + 1]

    @property
    def bonus(self) -> int | None:
        """The target's own token; None where the text ended before it."""
        return self.emitted[-1] if len(self.emitted) == len(self.path) else None

    @property
    def own_draft_log_probs(self) -> list[float] | None:
        """`[T]` what the draft gives each node after its parent, 0 at the root."""
        scores = self.draft_log_probs
        if scores is None:
            return None
        pairs = zip(scores, self.parent, strict=True)
        # A node without mass has children without mass: -inf less -inf is no number.
        return [
            score if score == float("-inf") else score - (scores[above] if above >= 0 else 0.0)
            for score, above in pairs
        ]


Observer = Callable[[StepTrace], None]
"""Called with each step of each request, once it is emitted."""
