"""Defines the acceptance ops: schema, fake, value check, backends."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops import native, registry
from sparrow_kernels.ops.accept import checked, checks, reference, residual

LAYOUT = "Tensor parent, Tensor depth, Tensor ancestors, Tensor first_child, Tensor next_sibling"
"""A `TreeLayout` without its status, as the ops that walk a tree take it."""


def fake_acceptance(tokens: Tensor, max_path: int) -> tuple[Tensor, Tensor, Tensor]:
    """Empty path, accept_length and tokens for a batch like that of `tokens`."""
    batch = tokens.shape[0]
    return (
        tokens.new_empty((batch, max_path), dtype=torch.int32),
        tokens.new_empty((batch,), dtype=torch.int32),
        tokens.new_empty((batch, max_path), dtype=torch.int64),
    )


def _fake_ids(rows: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    return uniform.new_empty(uniform.shape, dtype=torch.int64)


ACCEPT_TREE = registry.define(
    f"accept_tree(Tensor tokens, {LAYOUT}, Tensor target_tokens, SymInt max_path)"
    " -> (Tensor path, Tensor accept_length, Tensor tokens)",
    fake=lambda *args: fake_acceptance(args[0], args[-1]),
    check=checks.accept_tree,
)
ACCEPT_TREE.implement("reference", reference.accept_tree)
native.implement(ACCEPT_TREE)

SAMPLE_TOKENS = registry.define(
    "sample_tokens(Tensor probs, Tensor uniform) -> Tensor",
    fake=_fake_ids,
    check=checks.sample_tokens,
)
SAMPLE_TOKENS.implement("reference", reference.sample_tokens)
native.implement(SAMPLE_TOKENS, checked=checked.sample_tokens)

SAMPLE_LOGITS = registry.define(
    "sample_logits(Tensor logits, Tensor uniform, float temperature) -> Tensor",
    fake=_fake_ids,
    check=checks.sample_logits,
)
SAMPLE_LOGITS.implement("reference", reference.sample_logits)
native.implement(SAMPLE_LOGITS, checked=checked.sample_logits)

ACCEPT_TREE_RESIDUAL = registry.define(
    f"accept_tree_residual(Tensor tokens, {LAYOUT}, Tensor target_probs, Tensor draft_probs,"
    " Tensor uniform, Tensor bonus_uniform, SymInt max_path)"
    " -> (Tensor path, Tensor accept_length, Tensor tokens)",
    fake=lambda *args: fake_acceptance(args[0], args[-1]),
    check=checks.accept_tree_residual,
)
ACCEPT_TREE_RESIDUAL.implement("reference", residual.accept_tree_residual)
native.implement(ACCEPT_TREE_RESIDUAL, checked=checked.accept_tree_residual)

ACCEPT_TREE_RESIDUAL_LOGITS = registry.define(
    f"accept_tree_residual_logits(Tensor tokens, {LAYOUT}, Tensor target_logits,"
    " Tensor draft_logits, Tensor uniform, Tensor bonus_uniform, SymInt max_path,"
    " float temperature, float draft_temperature)"
    " -> (Tensor path, Tensor accept_length, Tensor tokens)",
    fake=lambda *args: fake_acceptance(args[0], args[-3]),
    check=checks.accept_tree_residual_logits,
)
ACCEPT_TREE_RESIDUAL_LOGITS.implement("reference", residual.accept_tree_residual_logits)
native.implement(ACCEPT_TREE_RESIDUAL_LOGITS, checked=checked.accept_tree_residual_logits)
