"""Commits of bound caches: straight to the native library, which checks shapes and values too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparrow_kernels.ops.gather.bound import Found
from sparrow_kernels.ops.library import NATIVE
from sparrow_kernels.ops.transforms import mark_written
from sparrow_kernels.ops.types import Acceptance, TreeLayout


def compact(
    found: Found,
    path: Tensor,
    accept_length: Tensor,
    prefix_lens: Tensor,
    block_table: Tensor | None,
) -> None:
    """`compact_cache_`."""
    number, checked = found
    NATIVE.compact_bound_.default(path, accept_length, number, prefix_lens, block_table, checked)


def path(
    found: Found,
    acceptance: Acceptance,
    states: Sequence[Tensor],
    prefix_lens: Tensor,
    block_table: Tensor | None,
) -> Tensor:
    """`commit_path_`."""
    number, checked = found
    nodes, length, _ = acceptance
    if torch.is_grad_enabled():
        mark_written([prefix_lens])
    hidden: Tensor = NATIVE.commit_path_bound_.default(
        nodes, length, number, states, prefix_lens, block_table, checked
    )
    return hidden


def tree(
    found: Found,
    tokens: Tensor,
    layout: TreeLayout,
    target_tokens: Tensor,
    states: Sequence[Tensor],
    prefix_lens: Tensor,
    max_path: int,
    block_table: Tensor | None,
    out: tuple[Acceptance, Tensor] | None,
) -> tuple[Acceptance, Tensor]:
    """`commit_tree_`."""
    number, checked = found
    parent, depth, _, child, sibling, _ = layout
    if torch.is_grad_enabled():
        mark_written([prefix_lens] if out is None else [prefix_lens, *out[0], out[1]])
    if out is None:
        *accepted, hidden = NATIVE.commit_tree_bound_.default(
            *(tokens, parent, depth, child, sibling, target_tokens),
            *(number, states, prefix_lens, max_path, block_table, checked),
        )
        return Acceptance(*accepted), hidden
    accepted, hidden = out
    NATIVE.commit_tree_bound_out_.default(
        *(tokens, parent, depth, child, sibling, target_tokens),
        *(number, states, prefix_lens, max_path, block_table, checked),
        *(*accepted, hidden),
    )
    return out
