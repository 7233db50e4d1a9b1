"""What the gathering and commit ops refuse when values are checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparrow_kernels.ops.accept.checks import check_links
from sparrow_kernels.ops.values import refuse_first


def gather_hidden(states: Sequence[Tensor], index: Tensor, out: Tensor | None = None) -> None:
    """Each index is a row or -1."""
    rows = states[0].shape[1]
    bad = (index < -1) | (index >= rows)
    refuse_first("gather_hidden", "index", f"-1 or a row below R = {rows}", index, bad)


def compact_cache_(
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    path: Tensor,
    accept_length: Tensor,
    prefix_lens: Tensor,
) -> None:
    """Paths increase strictly and stay inside the cache."""
    _check_path("compact_cache_", path, accept_length, prefix_lens, keys[0].shape[2], None)


def commit_path_(
    path: Tensor,
    accept_length: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    states: Sequence[Tensor],
    prefix_lens: Tensor,
) -> None:
    """Paths increase strictly and stay inside the cache and the states."""
    capacity, size = keys[0].shape[2], states[0].shape[1]
    _check_path("commit_path_", path, accept_length, prefix_lens, capacity, size)


def commit_tree_(
    tokens: Tensor,
    parent: Tensor,
    depth: Tensor,
    ancestors: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    target_tokens: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    states: Sequence[Tensor],
    prefix_lens: Tensor,
    max_path: int,
) -> None:
    """Links lead to later nodes, and every node of each tree has its slot in the cache."""
    check_links("commit_tree_", depth, first_child, next_sibling)
    num_nodes = (depth >= 0).sum(-1)
    capacity = keys[0].shape[2]
    bad = (num_nodes > 0) & ((prefix_lens < 0) | (prefix_lens + num_nodes > capacity))
    must_be = f"at least 0 with the tree's nodes below N = {capacity}"
    refuse_first("commit_tree_", "prefix_lens", must_be, prefix_lens, bad)


def _check_path(
    op: str,
    path: Tensor,
    accept_length: Tensor,
    prefix_lens: Tensor,
    capacity: int,
    size: int | None,
) -> None:
    longest = path.shape[1] - 1
    bad = (accept_length < -1) | (accept_length > longest)
    refuse_first(op, "accept_length", f"in -1..S - 1 = {longest}", accept_length, bad)
    place = torch.arange(path.shape[1], device=path.device)
    is_committed = place <= accept_length[:, None]
    before = torch.nn.functional.pad(path[:, :-1], (1, 0), value=-1)
    bad = is_committed & (path <= before)
    refuse_first(op, "path", "strictly increasing from 0 up", path, bad)
    if size is not None:
        bad = is_committed & (path >= size)
        refuse_first(op, "path", f"below the rows of states, T = {size}", path, bad)
    last = path.masked_fill(~is_committed, -1).amax(-1).long()  # of sums that may pass 2^31
    bad = (accept_length >= 0) & ((prefix_lens < 0) | (prefix_lens + last >= capacity))
    must_be = f"at least 0 with the path's slots below N = {capacity}"
    refuse_first(op, "prefix_lens", must_be, prefix_lens, bad)
