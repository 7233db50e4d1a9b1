"""The spans of slots that a split of the tree kernel goes over: prefix, anchors and window, tree.

Each folds its tiles into the running softmax of the subtiles. `cache` is (key pointer, value
pointer, their strides a slot) of one request and KV head, `pages` what `slot_pages` takes or None,
`biases` a pointer to those of the slots or None.
"""

# A kernel's arguments have their types from the launch.
# mypy: allow-untyped-defs
# Tuples of one entry or two, which is decided when a kernel is compiled.
# mypy: disable-error-code="assignment,misc"
from __future__ import annotations

import triton
import triton.language as tl

from sparrow_kernels.ops.attention.triton import configurations
from sparrow_kernels.ops.attention.triton.tree_tiles import (
    fold,
    has_bit,
    load_slots,
    slot_pages,
    slot_pointers,
    tree_bits,
    tree_extent,
)

TREE_TILES: tl.constexpr = tl.constexpr(configurations.TREE_TILES)


@triton.jit
def tiles_of_split(tiles, split, num_splits):
    """The first of a split's whole tiles of the prefix, and the one after its last.

    All splits share a line evenly on which the tree's tiles come first, as split 0's; where they
    are more than its share, the others share the prefix without it. Shares that are one longer are
    the last ones'. One division, for every program waits for it.
    """
    line = tiles + TREE_TILES
    is_short = line < TREE_TILES * num_splits
    sharing = tl.where(is_short, num_splits - 1, num_splits)
    shared = tl.where(is_short, tiles, line)
    before = tl.where(is_short, split - 1, split)  # of those who share
    each = (shared.to(tl.uint32) // tl.maximum(sharing, 1).to(tl.uint32)).to(tl.int32)
    shorter = sharing - (shared - each * sharing)
    first = before * each + tl.maximum(before - shorter, 0)
    end = first + each + tl.where(before >= shorter, 1, 0)
    ahead = tl.where(is_short, 0, TREE_TILES)
    return tl.maximum(first - ahead, 0), tl.maximum(end - ahead, 0)


@triton.jit
def _fold_slots(
    queries, states, cache, pages, biases, slots, seen, visible, length, scale_log2,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Slots `[n]`, all seen by all rows where `visible` is None."""
    key_ptr, value_ptr, key_stride, value_stride = cache
    bias = None
    if biases is not None:
        if seen is None:
            bias = tl.load(biases + slots)
            seen = bias != -float("inf")
        else:
            bias = tl.load(biases + slots, mask=seen & (slots < length), other=0.0)
            seen = seen & (bias != -float("inf"))
        bias = bias.to(tl.float32) * 1.4426950408889634
    found = None
    key_page = None
    value_page = None
    size = None
    if pages is not None:
        found = slot_pages(pages, slots, seen)
        key_page = pages[2]
        value_page = pages[3]
        size = pages[4]
    key_ptrs = slot_pointers(key_ptr, slots, key_stride, found, key_page, size, BLOCK_D)
    value_ptrs = slot_pointers(value_ptr, slots, value_stride, found, value_page, size, BLOCK_D)
    keys = load_slots(key_ptrs, seen, D, BLOCK_D)
    values = load_slots(value_ptrs, seen, D, BLOCK_D)
    return _fold_loaded(queries, states, keys, values, visible, bias, scale_log2)


@triton.jit
def _fold_loaded(queries, states, keys, values, visible, bias, scale_log2):
    if keys.dtype == tl.float8e4nv:
        # Exact, all of it. Weights are at most 1, so that beside float16 values they lose less than
        # in bfloat16, and these are one instruction for two; straight to bfloat16 it would be one
        # of the slow kind for each.
        keys = keys.to(tl.float16).to(tl.float32).to(queries[0].dtype)
        values = values.to(tl.float32 if queries[0].dtype == tl.float32 else tl.float16)
    return fold(queries, keys, values, states, visible, bias, scale_log2)


@triton.jit
def prefix_span(
    queries, states, cache, pages, biases, start, first_tile, end_tile, length, scale_log2,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Whole tiles of the prefix, counted from its first slot."""
    if pages is None and biases is None:
        # Pointers that go along: made anew each turn they were a seventh of its instructions.
        key_ptr, value_ptr, key_stride, value_stride = cache
        slots = start + first_tile * BLOCK_N + tl.arange(0, BLOCK_N)
        key_ptrs = slot_pointers(key_ptr, slots, key_stride, None, None, None, BLOCK_D)
        value_ptrs = slot_pointers(value_ptr, slots, value_stride, None, None, None, BLOCK_D)
        length_of_tile = tl.full([], BLOCK_N, tl.int64)
        for _ in tl.range(first_tile, end_tile):
            keys = load_slots(key_ptrs, None, D, BLOCK_D)
            values = load_slots(value_ptrs, None, D, BLOCK_D)
            states = _fold_loaded(queries, states, keys, values, None, None, scale_log2)
            key_ptrs += length_of_tile * key_stride
            value_ptrs += length_of_tile * value_stride
    else:
        for tile in tl.range(first_tile, end_tile):
            slots = start + tile * BLOCK_N + tl.arange(0, BLOCK_N)
            states = _fold_slots(
                queries, states, cache, pages, biases, slots, None, None, length, scale_log2,
                D, BLOCK_D,
            )  # fmt: skip
    return states


@triton.jit
def tree_span(
    queries, states, cache, pages, biases, rows, words, words_stride, first, length, T, N, W,
    scale_log2, G: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Slots from `first` on, up to the last tree slot that a row sees: what no whole tile took of
    the prefix, and the tree."""
    rows_words = (words + (rows[0] // G).to(tl.int64) * words_stride,)
    exist = (rows[0] < T * G,)
    extent = tree_extent(rows_words[0], exist[0], W)
    if len(rows) > 1:
        rows_words = (rows_words[0], words + (rows[1] // G).to(tl.int64) * words_stride)
        exist = (exist[0], rows[1] < T * G)
        extent = tl.maximum(extent, tree_extent(rows_words[1], exist[1], W))
    for tile in tl.range(first, tl.minimum(length + extent, N), BLOCK_T, num_stages=3):
        slots = tile + tl.arange(0, BLOCK_T)
        exists = slots < N
        bits = (tree_bits(rows_words[0], exist[0], tile - length, W),)
        # Not the maximum of `visible` over its rows, whose registers would spill.
        union = tl.reduce_or(bits[0], 0, keep_dims=True)
        visible = (has_bit(bits[0], BLOCK_T) & exists[None, :],)
        if len(rows) > 1:
            bits = (bits[0], tree_bits(rows_words[1], exist[1], tile - length, W))
            union |= tl.reduce_or(bits[1], 0, keep_dims=True)
            visible = (visible[0], has_bit(bits[1], BLOCK_T) & exists[None, :])
        seen = ((union >> tl.arange(0, BLOCK_T).to(tl.uint64)) & 1 != 0) & exists
        states = _fold_slots(
            queries, states, cache, pages, biases, slots, seen, visible, length, scale_log2,
            D, BLOCK_D,
        )  # fmt: skip
    return states


@triton.jit
def _reach(depths, rows, window, start, length, T, G: tl.constexpr):
    """The first slot that each row sees through its window, the lowest and the highest of them."""
    exists = rows < T * G
    depth = tl.load(depths + rows // G, mask=exists, other=0).to(tl.int64)
    reach = tl.minimum(tl.maximum(length + depth - window + 1, start), length).to(tl.int32)
    lowest = tl.min(tl.where(exists, reach, length), 0)
    return reach, lowest, tl.max(tl.where(exists, reach, start), 0)


@triton.jit
def _next_own(first, split, num_splits):
    """The first number from `first` on that is `split` modulo `num_splits`."""
    return first + (split - first % num_splits + num_splits) % num_splits


@triton.jit
def anchored_span(
    queries, states, cache, pages, biases, rows, anchors, depths, window, start, length, T, split,
    num_splits, scale_log2,
    G: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Anchors before each row's window, then the windows: each slot once for each row.

    Tiles of the anchor list are counted from the first anchor, tiles of the window backwards from
    the end of the prefix. Those that every row sees whole go first and carry no mask.
    """
    anchor_slots, rank, count = anchors
    reach, lowest, highest = _reach(depths, rows[0], window, start, length, T, G)
    reaches = (reach,)
    if len(rows) > 1:
        reach, low, high = _reach(depths, rows[1], window, start, length, T, G)
        reaches = (reaches[0], reach)
        lowest, highest = tl.minimum(lowest, low), tl.maximum(highest, high)
    places = tl.arange(0, BLOCK_N)
    # Clamped, so that a malformed index names wrong slots, but none outside the prefix.
    last_slot = tl.maximum(length - 1, 0)
    begin = tl.minimum(tl.maximum(tl.load(rank + start), 0), count)
    for_all = tl.minimum(tl.maximum(tl.load(rank + lowest), begin), count)
    for_some = tl.minimum(tl.maximum(tl.load(rank + highest), for_all), count)
    whole = (for_all - begin) // BLOCK_N
    for tile in tl.range(split, whole, num_splits):
        slots = tl.load(anchor_slots + begin + tile * BLOCK_N + places)
        slots = tl.minimum(tl.maximum(slots, start), last_slot)
        states = _fold_slots(
            queries, states, cache, pages, biases, slots, None, None, length, scale_log2,
            D, BLOCK_D,
        )  # fmt: skip
    own = _next_own(whole, split, num_splits)
    for tile in tl.range(own, tl.cdiv(for_some - begin, BLOCK_N), num_splits, num_stages=3):
        listed = begin + tile * BLOCK_N + places
        seen = listed < for_some
        slots = tl.load(anchor_slots + listed, mask=seen, other=0)
        slots = tl.minimum(tl.maximum(slots, start), last_slot)
        visible = ((slots[None, :] < reaches[0][:, None]) & seen[None, :],)
        if len(rows) > 1:
            visible = (visible[0], (slots[None, :] < reaches[1][:, None]) & seen[None, :])
        states = _fold_slots(
            queries, states, cache, pages, biases, slots, seen, visible, length, scale_log2,
            D, BLOCK_D,
        )  # fmt: skip

    # The window's tiles load no slots before their keys: one is ahead with two stages fewer. Of
    # the widest rows more would not fit in 99 KB.
    is_wide: tl.constexpr = BLOCK_D * queries[0].dtype.primitive_bitwidth > 4096
    is_plain: tl.constexpr = pages is None and biases is None
    WINDOW_STAGES: tl.constexpr = (3 if is_plain else 5) if is_wide else None
    whole = (length - highest) // BLOCK_N
    for tile in tl.range(split, whole, num_splits, num_stages=WINDOW_STAGES):
        slots = length - (tile + 1) * BLOCK_N + places
        states = _fold_slots(
            queries, states, cache, pages, biases, slots, None, None, length, scale_log2,
            D, BLOCK_D,
        )  # fmt: skip
    own = _next_own(whole, split, num_splits)
    for tile in tl.range(own, tl.cdiv(length - lowest, BLOCK_N), num_splits, num_stages=3):
        slots = length - (tile + 1) * BLOCK_N + places
        seen = slots >= lowest
        visible = (slots[None, :] >= reaches[0][:, None],)
        if len(rows) > 1:
            visible = (visible[0], slots[None, :] >= reaches[1][:, None])
        states = _fold_slots(
            queries, states, cache, pages, biases, slots, seen, visible, length, scale_log2,
            D, BLOCK_D,
        )  # fmt: skip
    return states
