"""What the gathering and commit ops refuse when values are checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparrow_kernels.ops import native
from sparrow_kernels.ops.accept.checks import check_links
from sparrow_kernels.ops.library import NATIVE
from sparrow_kernels.ops.pages import check_pages
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
    block_table: Tensor | None = None,
) -> None:
    """Paths increase strictly and stay inside the cache."""
    op = "compact_cache_"
    _check_path(op, path, accept_length, prefix_lens, keys[0], block_table, None)


def commit_path_(
    path: Tensor,
    accept_length: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    states: Sequence[Tensor],
    prefix_lens: Tensor,
    block_table: Tensor | None = None,
) -> None:
    """Paths increase strictly and stay inside the cache and the states."""
    op, size = "commit_path_", states[0].shape[1]
    _check_path(op, path, accept_length, prefix_lens, keys[0], block_table, size)


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
    block_table: Tensor | None = None,
) -> None:
    """Links lead to later nodes, and every node of each tree has its slot in the cache."""
    op, blocks = "commit_tree_", keys[0].shape
    # What is wrong is found below, in the words of all backends.
    if native.takes_checks(depth) and NATIVE.tree_commit_fits.default(
        depth, first_child, next_sibling, prefix_lens, blocks[0], blocks[2], block_table
    ):
        return
    check_links(op, depth, first_child, next_sibling)
    num_nodes = (depth >= 0).sum(-1)
    _check_rows(op, "the tree's nodes", num_nodes, prefix_lens, keys[0], block_table)


def _check_path(
    op: str,
    path: Tensor,
    accept_length: Tensor,
    prefix_lens: Tensor,
    cache: Tensor,
    block_table: Tensor | None,
    size: int | None,
) -> None:
    if native.takes_checks(path) and NATIVE.path_commit_fits.default(
        path,
        accept_length,
        prefix_lens,
        cache.shape[0],
        cache.shape[2],
        block_table,
        -1 if size is None else size,
    ):
        return
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
    last = path.masked_fill(~is_committed, -1).amax(-1).long()
    _check_rows(op, "the path's slots", last + 1, prefix_lens, cache, block_table)


def _check_rows(
    op: str,
    what: str,
    num_rows: Tensor,
    prefix_lens: Tensor,
    cache: Tensor,
    block_table: Tensor | None,
) -> None:
    """`num_rows` `[B]` slots behind the prefix are the request's own; 0 in an idle one."""
    is_idle = num_rows == 0
    ends = (prefix_lens + num_rows).masked_fill(is_idle, 0)  # int64: sums may pass 2^31
    bad = ~is_idle & (prefix_lens < 0)
    if block_table is None:
        capacity = cache.shape[2]
        bad |= ends > capacity
        must_be = f"at least 0 with {what} below N = {capacity}"
        refuse_first(op, "prefix_lens", must_be, prefix_lens, bad)
        return
    refuse_first(op, "prefix_lens", "at least 0", prefix_lens, bad)
    for begin, end in zip(torch.atleast_2d(prefix_lens), torch.atleast_2d(ends), strict=True):
        check_pages(op, block_table, cache, begin, end, writes=begin)
