"""One step of decoding for a batch, on the device only: draft, verify, accept and commit.

Its three parts read and write tensors that stay where they are, so that each can be captured in a
CUDA graph and replayed. A request that is finished is idle: its tree is padding, nothing of it
moves, and it emits nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparrow_kernels.decoding.coins import Coins
from sparrow_kernels.decoding.growth import grow_tree
from sparrow_kernels.decoding.protocols import (
    Choose,
    Committed,
    Draft,
    Target,
    Tree,
    Verification,
)
from sparrow_kernels.decoding.tree_config import TreeConfig
from sparrow_kernels.ops.accept import accept_tree_residual
from sparrow_kernels.ops.gather import commit_path_, commit_tree_
from sparrow_kernels.ops.tree import build_tree
from sparrow_kernels.ops.types import Acceptance


def alone(*_: Tensor) -> None:
    """What a target of one process agrees on: whatever it says."""


class Step:
    """The device's side of the loop.

    Args:
        target, draft: what verifies and what drafts; without a draft every tree is its root alone,
            which is plain decoding.
        tree: how much to draft; ignored without a draft.
        choose: how the target's own tokens are taken from its logits.
        coins: what is random.
        first: what the prefill emitted, a token a request, and the state it came from.
        samples: whether `choose` needs coins.
        draw_temperature: accept a tree that is drawn, of this temperature, by recursive rejection
            sampling. None: by the target's own tokens, which is exact for any tree.
        agree: overwrites tensors with those of the first process, where a target is split over
            several.
        scored: whether trees keep the draft's log-probabilities, for whoever looks on.
    """

    def __init__(
        self,
        target: Target,
        draft: Draft | None,
        tree: TreeConfig,
        choose: Choose,
        coins: Coins,
        first: Committed,
        samples: bool = False,
        draw_temperature: float | None = None,
        agree: Callable[..., None] = alone,
        scored: bool = False,
    ) -> None:
        batch, path = first.acceptance.tokens.shape
        device = first.acceptance.tokens.device
        self._target, self._draft, self._tree = target, draft, tree
        self._choose, self._coins, self._temperature = choose, coins, draw_temperature
        self._samples, self._agree, self._scored = samples, agree, scored
        self.committed = first
        self.nodes = 1 if draft is None else tree.total
        self.active = torch.ones(batch, dtype=torch.int32, device=device)
        """`[B]` int32: 0 once a request is finished."""
        self.emitted = torch.zeros((batch, 1 + path), dtype=torch.int64, device=device)
        """`[B, 1 + S]` int64: how many tokens a step emitted, then the tokens, -1 padding."""
        self._root_parent = torch.full((batch, 1), -1, dtype=torch.int32, device=device)
        self.drafted: Tree
        self.verified: Verification

    @property
    def scores(self) -> Tensor | None:
        """What `choose` last took tokens from."""
        return self._choose.scores

    @scores.setter
    def scores(self, scores: Tensor | None) -> None:
        self._choose.scores = scores

    def begin(self, first: Committed, finished: Sequence[int] = ()) -> None:
        """Begin again, where the tensors of the last call lie."""
        _overwrite(self.committed, first)
        self.active.fill_(1)
        self.idle(finished)

    def idle(self, finished: Sequence[int]) -> None:
        """Let these requests rest from now on."""
        for request in finished:
            self.active[request].fill_(0)  # a value that is assigned would wait for its copy

    def toss(self) -> None:
        """Draw the coins of a step, if it needs any."""
        if self._samples:
            self._coins.toss()

    def moved(self) -> None:
        """Buffers of target or draft have moved: nothing here remembers where they were."""

    def draft(self) -> None:
        """Refresh the draft with what was committed, and grow a tree from its last token."""
        acceptance = self.committed.acceptance
        root = next_root(acceptance)
        if self._draft is None:
            layout = build_tree(self._root_parent, self.active)
            self.drafted = Tree(root[:, None], layout, None)
            return
        root_hidden = self._draft.refresh(*self.committed)
        self.drafted = grow_tree(
            self._draft,
            self._tree,
            root,
            root_hidden,
            self.active,
            1.0 if self._temperature is None else self._temperature,
            self._coins,
            self._scored,
        )
        self._agree(self.drafted.tokens, *self.drafted.layout)

    def verify(self) -> None:
        """One forward of the target over all nodes."""
        self.verified = self._target.verify(self.drafted.tokens, self.drafted.layout)

    def commit(self) -> None:
        """Accept, and commit the accepted path."""
        if self._temperature is None:
            acceptance, _ = self._by_target_tokens()
        else:
            acceptance, path_hidden = self._by_residual(self.committed.acceptance.tokens.shape[1])
            _overwrite(self.committed, Committed(acceptance, path_hidden))
        self.emitted[:, 0] = acceptance.accept_length + 1
        self.emitted[:, 1:] = acceptance.tokens

    def _by_target_tokens(self) -> tuple[Acceptance, Tensor]:
        target, tree, verified = self._target, self.drafted, self.verified
        return commit_tree_(
            tree.tokens,
            tree.layout,
            self._choose(tree, verified.logits),
            target.keys,
            target.values,
            verified.states,
            target.prefix_lens,
            self.committed.acceptance.tokens.shape[1],
            out=self.committed,
        )

    def _by_residual(self, max_path: int) -> tuple[Acceptance, Tensor]:
        """Exact because the children were drawn from `draft_probs` and none was dropped."""
        target, tree, verified = self._target, self.drafted, self.verified
        assert tree.draft_probs is not None
        acceptance = accept_tree_residual(
            tree.tokens,
            tree.layout,
            self._choose.probs(verified.logits),
            tree.draft_probs,
            self._coins.uniform[:, :-1].contiguous(),
            self._coins.uniform[:, -1].contiguous(),
            max_path,
        )
        self._agree(*acceptance)
        path_hidden = commit_path_(
            acceptance, target.keys, target.values, verified.states, target.prefix_lens
        )
        return acceptance, path_hidden


def first_committed(tokens: Tensor, hidden: Tensor, max_path: int) -> Committed:
    """What a prefill leaves to the first step: `tokens` `[B]` it emitted, `hidden` `[B, L*H]` the
    states that the draft reads where each came from."""
    batch = tokens.shape[0]
    acceptance = Acceptance(
        path=torch.full((batch, max_path), -1, dtype=torch.int32, device=tokens.device),
        accept_length=torch.zeros(batch, dtype=torch.int32, device=tokens.device),
        tokens=tokens.new_full((batch, max_path), -1),
    )
    acceptance.path[:, 0] = 0
    acceptance.tokens[:, 0] = tokens
    path_hidden = hidden.new_zeros((batch, max_path, hidden.shape[-1]))
    path_hidden[:, 0] = hidden
    return Committed(acceptance, path_hidden)


def next_root(acceptance: Acceptance) -> Tensor:
    """`[B]` int64: the bonus token, root of the next tree; 0 for an idle request."""
    last = acceptance.accept_length.clamp_min(0).long()[:, None]
    return acceptance.tokens.gather(1, last)[:, 0].clamp_min(0)


def _overwrite(old: Committed, new: Committed) -> None:
    for own, other in zip(old.acceptance, new.acceptance, strict=True):
        own.copy_(other)
    old.path_hidden.copy_(new.path_hidden)
