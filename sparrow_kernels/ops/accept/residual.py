"""Recursive rejection sampling over a tree of sampled children: the definition.

At a node, its children x1, x2, ... come in the order they were drawn from its draft distribution.
Each is accepted with probability min(1, target(x) / draft(x)); a refusal takes from the target what
the draft could have given, and from the draft what it did give:

    target <- max(target - draft, 0), renormalised        draft(x) <- 0, renormalised

so that what is emitted has the target's distribution, whatever the draft. Without replacement the
next child was drawn from just that draft. With replacement it either repeats a refused token, and
says nothing new, or it is a draw from just that draft. So one rule is exact for both.

Leviathan et al., arXiv 2211.17192 (one child); Jeon et al., arXiv 2402.14160 (siblings without
replacement).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from sparrow_kernels.ops.accept.reference import have_mass, sample_rows, softmax_weights
from sparrow_kernels.ops.accept.walk import Links, Walk, acceptance


def accept_tree_residual(
    tokens: Tensor,
    parent: Tensor,
    depth: Tensor,
    ancestors: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    target_probs: Tensor,
    draft_probs: Tensor,
    uniform: Tensor,
    bonus_uniform: Tensor,
    max_path: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk each tree by recursive rejection sampling: path, accept_length, tokens."""

    def rows(b: int, node: int) -> tuple[Tensor, Tensor]:
        return target_probs[b, node].double(), draft_probs[b, node].double()

    links = (depth, first_child, next_sibling)
    return _accept(tokens, links, rows, uniform, bonus_uniform, max_path)


def accept_tree_residual_logits(
    tokens: Tensor,
    parent: Tensor,
    depth: Tensor,
    ancestors: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    target_logits: Tensor,
    draft_logits: Tensor,
    uniform: Tensor,
    bonus_uniform: Tensor,
    max_path: int,
    temperature: float,
    draft_temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`accept_tree_residual` of the two softmaxes."""

    def rows(b: int, node: int) -> tuple[Tensor, Tensor]:
        return (
            softmax_weights(target_logits[b, node], temperature),
            softmax_weights(draft_logits[b, node], draft_temperature),
        )

    links = (depth, first_child, next_sibling)
    return _accept(tokens, links, rows, uniform, bonus_uniform, max_path)


Rows = Callable[[int, int], tuple[Tensor, Tensor]]
"""Target and draft `[V]` float64 of a request's node."""


def _accept(
    tokens: Tensor,
    links: tuple[Tensor, Tensor, Tensor],
    rows: Rows,
    uniform: Tensor,
    bonus_uniform: Tensor,
    max_path: int,
) -> tuple[Tensor, Tensor, Tensor]:
    depth, first_child, next_sibling = links
    walks = [
        _walk(
            Links(depth[b], first_child[b], next_sibling[b]),
            tokens[b].tolist(),
            partial(rows, b),
            uniform[b].tolist(),
            bonus_uniform[b],
            max_path,
        )
        for b in range(tokens.shape[0])
    ]
    return acceptance(walks, max_path, tokens.device)


def _walk(
    links: Links,
    drafted: list[int],
    rows: Callable[[int], tuple[Tensor, Tensor]],
    uniform: list[float],
    bonus_uniform: Tensor,
    max_path: int,
) -> Walk:
    if links.is_idle:
        return [], []
    path: list[int] = [0]
    emitted: list[int] = []
    while True:
        node = path[-1]
        step = Step(*rows(node))
        children = links.children(node) if len(path) < max_path else ()
        child = next((c for c in children if step.accepts(drafted[c], uniform[c])), None)
        if child is None:
            emitted.append(int(sample_rows(step.target, bonus_uniform)))
            return path, emitted
        path.append(child)
        emitted.append(drafted[child])


class Step:
    """The two distributions at one node, reduced by every refusal. Rows are `[V]` float64.

    A row that cannot be sampled from counts as all 0.
    """

    def __init__(self, target_row: Tensor, draft_row: Tensor) -> None:
        self.original_target = self.target = _normalised(target_row)
        self.draft = _normalised(draft_row)
        self.refused: set[int] = set()

    def accepts(self, token: int, coin: float) -> bool:
        """Whether a child with `token` is accepted; if not, the distributions are reduced."""
        if token in self.refused or not 0 <= token < self.target.shape[0]:
            return False
        if coin * float(self.draft[token]) < float(self.target[token]):
            return True
        self._refuse(token)
        return False

    def _refuse(self, token: int) -> None:
        self.refused.add(token)
        self.target = _normalised((self.target - self.draft).clamp(min=0))
        if not bool(self.target.any()):
            self.target = self.original_target
        draft = self.draft.clone()
        draft[token] = 0
        self.draft = _normalised(draft)


def _normalised(weights: Tensor) -> Tensor:
    # The sum is taken over what remains: 1 - x would keep the rounding errors of all that is gone.
    return weights / weights.sum() if bool(have_mass(weights)) else weights.new_zeros(len(weights))
