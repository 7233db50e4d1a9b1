"""One step of speculative decoding, after `grow_tree` has drafted: verify, accept, commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.decoding.protocols import Target, Tree, Verification
from sparrow_kernels.ops.accept import accept_tree_residual
from sparrow_kernels.ops.gather import commit_path_, commit_tree_
from sparrow_kernels.ops.types import Acceptance

Choose = Callable[[Tree, Tensor], Tensor]
"""`choose(tree, logits [B, T, V]) -> target_tokens [B, T]`: the target's own token after each node,
its argmax or one exact sample. -1 at nodes the walk cannot reach."""


class Committed(NamedTuple):
    """What a step decided, and what the next refresh needs."""

    acceptance: Acceptance
    path_hidden: Tensor
    """`[B, S, H]` the target's top states along the accepted path, zeros behind it."""


def verify_step(target: Target, tree: Tree) -> Verification:
    """Verify: one forward of the target over all nodes."""
    return target.verify(tree.tokens, tree.layout)


def commit_step(
    target: Target, tree: Tree, verified: Verification, max_path: int, choose: Choose
) -> Committed:
    """Accept by the target's own tokens, and commit the accepted path, in one launch.

    Exact for any tree, however drafted: the emitted tokens are the target's.
    """
    target_tokens = choose(tree, verified.logits)
    acceptance, path_hidden = commit_tree_(
        tree.tokens,
        tree.layout,
        target_tokens,
        target.keys,
        target.values,
        [verified.hidden],
        target.prefix_lens,
        max_path,
    )
    return Committed(acceptance, path_hidden)


def commit_residual_step(
    target: Target,
    tree: Tree,
    verified: Verification,
    max_path: int,
    target_probs: Tensor,
    generator: torch.Generator | None = None,
) -> Committed:
    """Accept a drawn tree by recursive rejection sampling, and commit the accepted path.

    Exact because the children were drawn from `tree.draft_probs` and none was dropped.
    """
    if tree.draft_probs is None:
        raise ValueError(
            "commit_residual_step: tree must be drawn from the draft, got the draft's best nodes"
            " (use TreeConfig(branching=...) or commit_step)"
        )
    batch, nodes = tree.tokens.shape
    device = tree.tokens.device
    acceptance = accept_tree_residual(
        tree.tokens,
        tree.layout,
        target_probs,
        tree.draft_probs,
        torch.rand((batch, nodes), dtype=torch.float32, device=device, generator=generator),
        torch.rand((batch,), dtype=torch.float32, device=device, generator=generator),
        max_path,
    )
    path_hidden = commit_path_(
        acceptance, target.keys, target.values, [verified.hidden], target.prefix_lens
    )
    return Committed(acceptance, path_hidden)


def next_root(acceptance: Acceptance) -> Tensor:
    """`[B]` int64: the bonus token, root of the next tree."""
    last = acceptance.accept_length.clamp_min(0).long()[:, None]
    return acceptance.tokens.gather(1, last)[:, 0]
