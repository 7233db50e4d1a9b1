"""Block tables: in which page of a cache a slot lies, and what a table is refused for.

A cache that comes with a `block_table` `[B, pages]` int32 is `[num_pages, Hkv, page_size, D]` with
free strides, shared by all requests. Slot s of request b is row `s % page_size` of page
`block_table[b, s // page_size]`, so a request has N = pages * page_size slots. Entries behind the
slots in use may hold anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.errors import Size, check_rows_are_dense, check_tensor, refuse
from sparrow_kernels.ops.values import refuse_first


def check_block_table(op: str, block_table: object, batch: Size, cache: Tensor) -> Tensor:
    """Rank, batch, dtype and device of a block table, which are checked always.

    Values are another matter: `check_pages`, inside the op.
    """
    sizes: dict[str, Size] = {"B": batch}
    table = check_tensor(
        op, "block_table", block_table, "B pages", torch.int32, sizes, cache.device
    )
    check_rows_are_dense(op, "block_table", table)
    return table


def num_slots(cache: Tensor, block_table: Tensor | None) -> int:
    """N: slots of one request in a cache `[B, Hkv, N, D]`, or in the pages of its table."""
    return cache.shape[2] if block_table is None else block_table.shape[1] * cache.shape[2]


def check_pages(
    op: str,
    block_table: Tensor,
    cache: Tensor,
    begins: Tensor | None,
    ends: Tensor,
    writes: Tensor | None = None,
) -> None:
    """Refuse a table that is too short, out of range, or shared for writing. It syncs.

    Args:
        begins, ends: `[B]` slots [begin, end) that the call reads or writes; None: from 0 on. A
            request with `end <= 0` is idle and has none.
        writes: `[B]` slots [write, end) that it writes. A page with one of them must be held by no
            other request, up to that request's own end; nor twice by its own.
    """
    pages, num_pages, page_size = block_table.shape[1], cache.shape[0], cache.shape[2]
    bad = ends > pages * page_size
    if bool(bad.any()):
        b = int(bad.nonzero()[0])
        must_be = f"[B, pages] with slot {int(ends[b]) - 1} of request {b} in it"
        refuse(op, "block_table", must_be, f"{pages} pages of {page_size} slots")
    if page_size == 0:
        return
    place = torch.arange(pages, device=block_table.device)
    is_held = place * page_size < ends[:, None]
    is_used = is_held if begins is None else is_held & _reaches(place, begins, page_size)
    outside = (block_table < 0) | (block_table >= num_pages)
    must_be = f"a page in 0..{num_pages - 1} wherever its slots are in use"
    refuse_first(op, "block_table", must_be, block_table, is_used & outside)
    if writes is None:
        return
    is_held &= ~outside
    is_written = is_held & _reaches(place, writes, page_size)
    holders = torch.bincount(block_table[is_held], minlength=num_pages)
    shared = torch.zeros_like(is_written)
    shared[is_written] = holders[block_table[is_written].long()] > 1
    must_be = "without a page that one request writes and another holds"
    refuse_first(op, "block_table", must_be, block_table, shared)


def _reaches(place: Tensor, slots: Tensor, page_size: int) -> Tensor:
    """`[B, pages]`: whether a page ends behind the slot."""
    return (place + 1) * page_size > slots[:, None]


def paged_slot(block_table: Tensor, cache: Tensor, request: int, slot: int) -> tuple[int, int]:
    """Page and row of a slot; page -1 where the table or the cache has none. It syncs."""
    page_size = cache.shape[2]
    if page_size == 0 or not 0 <= slot < num_slots(cache, block_table):
        return -1, 0
    page = int(block_table[request, slot // page_size])
    return (page if 0 <= page < cache.shape[0] else -1), slot % page_size


def gather_pages(cache: Tensor, block_table: Tensor) -> Tensor:
    """`[B, Hkv, N, D]`: a copy of every request's slots, side by side. Pages out of range are
    clamped."""
    batch, pages = block_table.shape
    num_pages, heads, page_size, head_dim = cache.shape
    if num_pages == 0:
        return cache.new_zeros((batch, heads, pages * page_size, head_dim))
    rows = cache[block_table.long().clamp(0, num_pages - 1)]  # [B, pages, Hkv, page_size, D]
    return rows.transpose(1, 2).reshape(batch, heads, pages * page_size, head_dim)
