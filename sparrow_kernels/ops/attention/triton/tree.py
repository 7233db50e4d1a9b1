"""Attention of a draft tree's rows to its committed prefix and to itself, one part of it a program.

    score = scale * q k^T over the slots a row sees;   out = softmax(score) v;   lse = log sum exp
    kept running over tiles of slots: highest score, sum of weights, weighted sum of v

Rows: the G query heads of a KV head and all T nodes share its K and V, so row = node * G + head
within the group fills one M dimension, in one or two subtiles: 128 + 64 rows waste less than 256
would, and one subtile's exponentials can run beside the other's products.

Grid: row tile (fastest: programs that share K and V run together) and split, KV head, request.
Loads: Q once; K and V by asynchronous copies, tiles ahead of it; words once, by the split that
holds the tree. The lengths are read here: whole tiles of the prefix carry no mask and are shared
out evenly; the rest of the prefix and the tree, which lies right behind, are masked tiles of split
0, which has TREE_TILES whole ones less for them. A split without a tile loads Q alone. With anchors
a split takes each num_splits-th tile of the anchor list, then of the window, counted from the end
of the prefix: where tiles lie depends on the request alone, and a row masks what it does not see,
which changes none of its bits.
Bytes: 2 D itemsize a seen slot and KV head, from memory once (row tiles after the first find them
in the L2), Q and out, and with several splits out and 4 bytes a row for each. Flops: 4 D a row and
slot. Exponentials: 1 a row and slot. Bound: memory, up to about 256 rows a KV head in 16 bits.

Relies on: contiguous last dims, all else strided. Nothing about values: lengths and anchors are
clamped, bits past the cache are ignored, what no row sees is not read.
Pages: the block table is read before the keys, slot by slot, so that a tile may begin anywhere in a
page: the tiles, and so the bits, are those of a cache of one piece. The compiler knows the strides
of pages, which hang on the layout of a cache and not on its size: products with them were a sixth
of a turn. A bias is read there too: what it takes away (-inf) is loaded as zeros.
Float8 caches, on 9.x: half the bytes; what is loaded becomes 16 bits on its way to the products,
and scores and result are multiplied by the scales of the KV head.
Not handled: float64, another head dim for V, D above 256.
"""

# A kernel's arguments have their types from the launch.
# mypy: allow-untyped-defs
# Tuples of one entry or two, which is decided when a kernel is compiled.
# mypy: disable-error-code="assignment,misc"
from __future__ import annotations

import triton
import triton.language as tl

from sparrow_kernels.ops.attention.triton.tree_spans import (
    anchored_span,
    prefix_span,
    tiles_of_split,
    tree_span,
)
from sparrow_kernels.ops.attention.triton.tree_tiles import (
    begin,
    load_queries,
    row_numbers,
    store_rows,
)

# A call that differs from one before in these alone is not compiled anew: neither gains by being
# known to the compiler, and a graph may be captured of any.
ANY_ALIGNMENT = [
    "ancestors_ptr", "prefix_lens_ptr", "prefix_starts_ptr", "anchor_slots_ptr", "anchor_count_ptr",
    "anchor_rank_ptr", "depth_ptr", "block_table_ptr", "key_bias_ptr", "key_scale_ptr",
    "value_scale_ptr", "lse_ptr",
]  # fmt: skip
_ANY_VALUE = [
    "ancestors_stride_b", "ancestors_stride_t", "slots_stride_b", "rank_stride_b", "depth_stride_b",
    "table_stride_b", "bias_stride_b", "bias_stride_h",
    "key_scale_stride_b", "key_scale_stride_h", "value_scale_stride_b", "value_scale_stride_h",
    "lse_stride_s", "lse_stride_b", "lse_stride_h", "lse_stride_t",
    "window", "T", "N", "W", "A", "num_pages", "num_splits", "row_tiles", "zero",
]  # fmt: skip


@triton.jit(do_not_specialize=_ANY_VALUE, do_not_specialize_on_alignment=ANY_ALIGNMENT)
def tree_kernel(
    query_ptr,  # [B, Hq, T, D]
    key_ptr,  # [B, Hkv, N, D], or with a block table [num_pages, Hkv, PAGE, D]
    value_ptr,  # the same
    ancestors_ptr,  # [B, T, W] int64
    prefix_lens_ptr,  # [B] int32
    prefix_starts_ptr,  # [B] int32 or None
    anchor_slots_ptr,  # [B, A] int32; this and the next three are None without anchors
    anchor_count_ptr,  # [B] int32
    anchor_rank_ptr,  # [B, N + 1] int32
    depth_ptr,  # [B, T] int32
    block_table_ptr,  # [B, N / PAGE] int32 or None
    key_bias_ptr,  # [B, Hkv, N] or None
    key_scale_ptr,  # [B, Hkv] float32 or None
    value_scale_ptr,  # the same
    out_ptr,  # [num_splits, B, Hq, T, D]
    lse_ptr,  # [num_splits, B, Hq, T] float32 or None
    query_stride_b, query_stride_h, query_stride_t,
    key_stride_b, key_stride_h, key_stride_n,
    value_stride_b, value_stride_h, value_stride_n,
    ancestors_stride_b, ancestors_stride_t,
    slots_stride_b, rank_stride_b, depth_stride_b,
    table_stride_b, bias_stride_b, bias_stride_h,
    key_scale_stride_b, key_scale_stride_h, value_scale_stride_b, value_scale_stride_h,
    out_stride_s, out_stride_b, out_stride_h, out_stride_t,
    lse_stride_s, lse_stride_b, lse_stride_h, lse_stride_t,
    scale_log2,  # |scale| * log2(e), above 0
    window, T, N, W, A, num_pages, num_splits, row_tiles,
    zero,  # always: what is computed with it, the compiler does not keep in registers
    G: tl.constexpr,
    SIGN: tl.constexpr,  # of the scale: -1, 0 or 1
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M0: tl.constexpr,
    BLOCK_M1: tl.constexpr,  # 0: no second subtile
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,  # of the tiles with tree slots, at most 64
    PAGE: tl.constexpr,  # slots of a page, 0 without a block table
    KEY_PAGE: tl.constexpr,  # stride of a page of keys
    VALUE_PAGE: tl.constexpr,  # and of values
    DEPENDENT: tl.constexpr,  # the merge may be launched while splits are still at work
):  # fmt: skip
    place, over = tl.program_id(0).to(tl.uint32), row_tiles.to(tl.uint32)
    split, row_tile = (place // over).to(tl.int32), (place % over).to(tl.int32)
    group, request = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    length = tl.minimum(tl.maximum(tl.load(prefix_lens_ptr + request), 0), N)
    start = length * 0
    if prefix_starts_ptr is not None:
        start = tl.minimum(tl.maximum(tl.load(prefix_starts_ptr + request), 0), length)
    key_ptr += group * key_stride_h
    value_ptr += group * value_stride_h
    pages = None
    if block_table_ptr is None:
        key_ptr += request * key_stride_b
        value_ptr += request * value_stride_b
    else:
        table = block_table_ptr + request * table_stride_b
        pages = (table, num_pages, KEY_PAGE, VALUE_PAGE, PAGE)
    biases = None
    if key_bias_ptr is not None:
        biases = key_bias_ptr + request * bias_stride_b + group * bias_stride_h
    value_scale = None
    if value_scale_ptr is not None:
        at = request * value_scale_stride_b + group * value_scale_stride_h
        value_scale = tl.load(value_scale_ptr + at)
    if key_scale_ptr is not None:
        at = request * key_scale_stride_b + group * key_scale_stride_h
        scale_log2 *= tl.load(key_scale_ptr + at)
    query_ptr += request * query_stride_b + group * G * query_stride_h
    out_ptr += split.to(tl.int64) * out_stride_s + request * out_stride_b + group * G * out_stride_h
    if lse_ptr is not None:
        lse_ptr += (
            split.to(tl.int64) * lse_stride_s + request * lse_stride_b + group * G * lse_stride_h
        )

    cache = (key_ptr, value_ptr, key_stride_n, value_stride_n)
    query_steps = (query_stride_h, query_stride_t)

    tiles = (length - start) // BLOCK_N
    first_tile, end_tile = tiles_of_split(tiles, split, num_splits)

    first_row = row_tile * (BLOCK_M0 + BLOCK_M1)
    rows = row_numbers(first_row, BLOCK_M0, BLOCK_M1)
    queries = (load_queries(query_ptr, rows[0], query_steps, T, G, SIGN, D, BLOCK_D),)
    states = (begin(BLOCK_M0, BLOCK_D),)
    if BLOCK_M1 > 0:
        second = load_queries(query_ptr, rows[1], query_steps, T, G, SIGN, D, BLOCK_D)
        queries = (queries[0], second)
        states = (states[0], begin(BLOCK_M1, BLOCK_D))

    if anchor_slots_ptr is None:
        states = prefix_span(
            queries, states, cache, pages, biases, start, first_tile, end_tile, length, scale_log2,
            D, BLOCK_D, BLOCK_N,
        )  # fmt: skip
        tree_split = 0
        tree_begin = start + tiles * BLOCK_N
    else:
        anchors = (
            anchor_slots_ptr + request * slots_stride_b,
            anchor_rank_ptr + request * rank_stride_b,
            tl.minimum(tl.maximum(tl.load(anchor_count_ptr + request), 0), A),
        )
        depths = depth_ptr + request * depth_stride_b
        states = anchored_span(
            queries, states, cache, pages, biases, rows, anchors, depths, window.to(tl.int64),
            start, length, T, split, num_splits, scale_log2, G, D, BLOCK_D, BLOCK_N,
        )  # fmt: skip
        tree_split = num_splits - 1  # it has the fewest of the others
        tree_begin = length
    # Anew, what follows from the rows too, where it would be kept through all the loops.
    rows = row_numbers(first_row + zero, BLOCK_M0, BLOCK_M1)
    if split == tree_split:
        words = ancestors_ptr + request * ancestors_stride_b
        states = tree_span(
            queries, states, cache, pages, biases, rows, words, ancestors_stride_t, tree_begin,
            length, T, N, W, scale_log2, G, D, BLOCK_D, BLOCK_T,
        )  # fmt: skip

    if DEPENDENT:
        # The merge waits for this whole kernel before it reads; so its programs only take the room
        # that is free by now. What this kernel itself reads, earlier ones wrote (the lengths, K and
        # V), and the merge of the call before may still read the memory of its parts: it is not
        # launched early itself, or it would have to wait before its first load.
        tl.extra.cuda.gdc_launch_dependents()
    rows = row_numbers(first_row - zero, BLOCK_M0, BLOCK_M1)
    out_steps, lse_steps = (out_stride_h, out_stride_t), (lse_stride_h, lse_stride_t)
    store_rows(
        out_ptr,
        out_steps,
        lse_ptr,
        lse_steps,
        rows[0],
        states[0],
        value_scale,
        T,
        num_splits,
        G,
        D,
        BLOCK_D,
    )
    if BLOCK_M1 > 0:
        store_rows(
            out_ptr,
            out_steps,
            lse_ptr,
            lse_steps,
            rows[1],
            states[1],
            value_scale,
            T,
            num_splits,
            G,
            D,
            BLOCK_D,
        )
