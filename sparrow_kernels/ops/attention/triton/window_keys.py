"""Which keys a tile of rows sees, and how rows are loaded: shared by the window's kernels.

A tile's keys are numbered densely, whether they lie in a window or are anchors scattered over the
whole sequence: every tile of keys is full but the last, and each key is loaded once. Keys that all
rows of the tile see come first, so that most tiles need no mask.
"""

from __future__ import annotations

# The arguments of a kernel are of types that only Triton knows.
# mypy: allow-untyped-defs
import triton
import triton.language as tl


@triton.jit
def row_tile_keys(rank_ptr, first_row, end_row, window):
    """The keys that the rows `[first_row, end_row)` see, in one dense list.

    Those that every row sees come first: the anchors before the window, listed in `order`, then
    the slots inside the window of all rows; behind them the edge of the window and the diagonal,
    which some rows see. With `window` 0 all of them are anchors.

    Returns `(full, total, listed, window_start, middle_start, middle_end)`: of `total` keys `full`
    are seen by every row; `listed` come from `order`, the others from `[window_start, end_row)`,
    of which `[middle_start, middle_end)` is full.
    """
    window_start = tl.where(window > 0, tl.maximum(first_row - window + 1, 0), end_row)
    listed = tl.load(rank_ptr + window_start)
    middle_end = first_row + 1
    middle_start = tl.minimum(tl.maximum(window_start, end_row - window), middle_end)
    seen_by_all = tl.load(rank_ptr + middle_end)
    full = tl.where(window > 0, listed + middle_end - middle_start, seen_by_all)
    total = listed + end_row - window_start
    return full, total, listed, window_start, middle_start, middle_end


@triton.jit
def full_slots(order_ptr, place, listed, middle_start):
    """The slots at `place` `[n]` of that list, all of them below `full`."""
    anchors = tl.load(order_ptr + place, mask=place < listed, other=0)
    return tl.where(place < listed, anchors, middle_start + place - listed)


@triton.jit
def edge_slots(order_ptr, place, total, listed, window_start, middle_start, middle_end):
    """The slots at `place` `[n]` of that list, anywhere below `total`; beyond it, any number."""
    behind = place - listed
    middle = middle_end - middle_start
    # The slots [window_start, end_row) with the middle taken out and put in front.
    slots = window_start + behind
    slots = tl.where(behind < middle_end - window_start, slots - middle, slots)
    slots = tl.where(behind < middle, middle_start + behind, slots)
    anchors = tl.load(order_ptr + place, mask=place < tl.minimum(listed, total), other=0)
    return tl.where(behind < 0, anchors, slots)


@triton.jit
def load_rows(pointer, rows, stride, inside, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """`[n, BLOCK_D]`: the `rows` `[n]` that are `inside`, 0 elsewhere and past D."""
    dims = tl.arange(0, BLOCK_D)
    pointers = pointer + rows.to(tl.int64)[:, None] * stride + dims[None, :]
    if BLOCK_D == D:
        return tl.load(pointers, mask=inside[:, None], other=0.0)
    return tl.load(pointers, mask=inside[:, None] & (dims < D)[None, :], other=0.0)


@triton.jit
def load_all_rows(pointer, rows, stride, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """`[n, BLOCK_D]`: the `rows` `[n]`, all of which exist; 0 past D."""
    dims = tl.arange(0, BLOCK_D)
    pointers = pointer + rows.to(tl.int64)[:, None] * stride + dims[None, :]
    if BLOCK_D == D:
        return tl.load(pointers)
    return tl.load(pointers, mask=(dims < D)[None, :], other=0.0)


@triton.jit
def key_reach(mask_ptr, slots, exists, window, length):
    """How far on the rows that see each of the `slots` `[n]` lie: a row r sees slot s if
    0 <= r - s < reach. All the way for an anchor, `window` for others, 0 where none `exists`."""
    is_anchor = tl.load(mask_ptr + slots, mask=exists, other=0)
    return tl.where(exists, tl.where(is_anchor != 0, length, window), 0)


@triton.jit
def sees(rows, slots, reach):
    """Whether 0 <= row - slot < reach: as unsigned numbers one comparison."""
    return (rows - slots).to(tl.uint32, bitcast=True) < reach.to(tl.uint32, bitcast=True)
