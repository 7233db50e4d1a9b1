"""The native sampling ops with their checks in them, on a CPU.

Each returns None where a value is not as `checks` wants it, which then says which.
"""

from __future__ import annotations

import torch
from torch import Tensor

Accepted = tuple[Tensor, Tensor, Tensor]


def sample_tokens(probs: Tensor, uniform: Tensor) -> Tensor | None:
    """The kernel names no token where a row has no mass."""
    ids, is_sound = torch.ops.sparrow_native.sample_tokens_checked.default(probs, uniform)
    return ids if is_sound else None


def sample_logits(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor | None:
    """The kernel names no token where a row has no softmax."""
    checked = torch.ops.sparrow_native.sample_logits_checked.default
    ids, is_sound = checked(logits, uniform, temperature)
    return ids if is_sound else None


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
) -> Accepted | None:
    """All rows that a walk may come by are looked at, of which the walk itself reads few."""
    if not torch.ops.sparrow_native.residual_is_sound.default(
        tokens, parent, depth, first_child, next_sibling,
        target_probs, draft_probs, uniform, bonus_uniform, False,
    ):  # fmt: skip
        return None
    return torch.ops.sparrow_native.accept_tree_residual.default(
        tokens, parent, depth, ancestors, first_child, next_sibling,
        target_probs, draft_probs, uniform, bonus_uniform, max_path,
    )  # fmt: skip


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
) -> Accepted | None:
    """As `accept_tree_residual`."""
    if not torch.ops.sparrow_native.residual_is_sound.default(
        tokens, parent, depth, first_child, next_sibling,
        target_logits, draft_logits, uniform, bonus_uniform, True,
    ):  # fmt: skip
        return None
    return torch.ops.sparrow_native.accept_tree_residual_logits.default(
        tokens, parent, depth, ancestors, first_child, next_sibling,
        target_logits, draft_logits, uniform, bonus_uniform, max_path,
        temperature, draft_temperature,
    )  # fmt: skip
