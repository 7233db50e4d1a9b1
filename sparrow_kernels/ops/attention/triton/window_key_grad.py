"""The gradients of key and value of anchored window attention, each row by one program.

    p^T = 2^((scale * k q^T - lse) / ln 2)      d_value = sum over rows and heads of p^T grad
    d_scores^T = p^T (v grad^T - delta)         d_key = scale * sum of d_scores^T q

Grid: tiles of BLOCK_N anchors, longest first, each perhaps split over several programs; then tiles
of BLOCK_N other slots; fastest the pairs of request and KV head.
A program keeps its keys, values and sums in registers and walks the rows that see them, for all
heads of the group in turn: first the rows that see the whole tile, without a mask, then the edges.
Anchors are seen by all later rows, other slots by `window` rows: sorted apart, neither waits for
the other's rows. A few anchors under many rows would leave the GPU idle, so their rows are split
and the float32 sums of the parts added in order by a second kernel.
Bytes: key, value and their gradients once, query and grad once for each key tile they see, out of
the L2; flops: 8 D a seen pair; exponentials: 1 a pair. Bound by the matmul rate.
Relies on the plan (window_plan.py) and on delta. Not handled: float64, D > 256.
"""

from __future__ import annotations

# The arguments of a kernel are of types that only Triton knows.
# mypy: allow-untyped-defs
import triton
import triton.language as tl

from sparrow_kernels.ops.attention.triton.window_keys import load_all_rows, load_rows, sees

# What one program of `add_splits_kernel` adds up, of a tile's BLOCK_N rows.
ADDED_ROWS = 16


@triton.jit
def anchor_splits(anchor_tiles, split_programs, max_splits):
    """The number of programs that share one tile of anchors."""
    return tl.maximum(tl.minimum(split_programs // tl.maximum(anchor_tiles, 1), max_splits), 1)


@triton.jit(
    do_not_specialize=[
        "batch",
        "heads",
        "group",
        "length",
        "query_rows",
        "window",
        "split_programs",
        "max_splits",
    ]
)
def key_grad_kernel(
    grad_ptr,  # [B, Hq, R, D]
    query_ptr,  # [B, Hq, R, D]
    key_ptr,  # [B, Hkv, S, D]
    value_ptr,  # [B, Hkv, S, D]
    lse_ptr,  # [B, Hq, S] float32, the rows at their positions
    delta_ptr,  # [B, Hq, S] float32, the rows at their positions
    d_key_ptr,  # [B, Hkv, S, D] contiguous, written
    d_value_ptr,  # [B, Hkv, S, D] contiguous, written
    partial_ptr,  # [2, B * Hkv, split_programs, BLOCK_N, D] float32, written where split
    order_ptr,  # [B, S] int32
    rank_ptr,  # [B, S + 1] int32
    grad_stride_b,
    grad_stride_h,
    grad_stride_s,
    query_stride_b,
    query_stride_h,
    query_stride_s,
    key_stride_b,
    key_stride_h,
    key_stride_s,
    value_stride_b,
    value_stride_h,
    value_stride_s,
    batch,  # B
    heads,  # Hq
    group,  # G
    length,  # S
    query_rows,  # R
    window,  # at most S
    scale,
    scale_log2,  # scale / ln 2
    split_programs,
    max_splits,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Grid: ((max(ceil(S / BLOCK_N), split_programs) + ceil(S / BLOCK_N)) * B * Hkv,).
    kv_heads = heads // group
    pairs = batch * kv_heads
    pair = tl.program_id(0) % pairs
    request = (pair // kv_heads).to(tl.int64)
    kv_head = (pair % kv_heads).to(tl.int64)
    order_ptr += request * length
    anchors = tl.load(rank_ptr + request * (length + 1) + length)
    anchor_tiles = tl.cdiv(anchors, BLOCK_N)
    other_tiles = tl.cdiv(length - anchors, BLOCK_N)
    splits = anchor_splits(anchor_tiles, split_programs, max_splits)
    program = tl.program_id(0) // pairs
    anchor_programs = tl.maximum(tl.cdiv(length, BLOCK_N), split_programs)
    for_anchors = program < anchor_programs
    if for_anchors:
        tile = program // splits
        tiles = anchor_tiles
    else:
        splits = 1
        # Ascending in slots, as the other slots are listed from the last to the first.
        tile = other_tiles - 1 - (program - anchor_programs)
        tiles = other_tiles
    if (tile < 0) | (tile >= tiles):
        return
    split = program % splits

    place = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    key_exists = place < tl.where(for_anchors, anchors, length - anchors)
    place = tl.where(for_anchors, place, length - 1 - place)
    slots = tl.load(order_ptr + place, mask=key_exists, other=0)
    reach = tl.where(for_anchors, length, window)
    first_slot = tl.min(tl.where(key_exists, slots, length), 0)
    last_slot = tl.max(slots, 0)
    # Rows [first_slot, end_row) see some of the keys; [full_row, edge_row) see all, in whole tiles.
    end_row = tl.where(reach > 0, tl.minimum(last_slot + reach, length), first_slot)
    end_full = tl.minimum(end_row, first_slot + reach)
    # Of these only [length - query_rows, length) are there.
    first_slot = tl.maximum(first_slot, length - query_rows)
    end_row = tl.maximum(end_row, first_slot)
    full_row = tl.minimum(tl.maximum(last_slot, first_slot), end_row)
    full_tiles = tl.maximum(end_full - full_row, 0) // BLOCK_M
    edge_row = full_row + full_tiles * BLOCK_M
    before = full_row - first_slot
    edge_rows = before + end_row - edge_row
    edge_tiles = tl.cdiv(edge_rows, BLOCK_M)

    key_ptr += request * key_stride_b + kv_head * key_stride_h
    value_ptr += request * value_stride_b + kv_head * value_stride_h
    keys = load_rows(key_ptr, slots, key_stride_s, key_exists, D, BLOCK_D)
    values = load_rows(value_ptr, slots, value_stride_s, key_exists, D, BLOCK_D)
    d_keys = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    d_values = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    query_ptr += request * query_stride_b + kv_head * group * query_stride_h
    grad_ptr += request * grad_stride_b + kv_head * group * grad_stride_h
    # Rows go by their positions; with another stride of lse and delta this spills on sm_90.
    offset = (length - query_rows).to(tl.int64)
    query_ptr -= offset * query_stride_s
    grad_ptr -= offset * grad_stride_s
    row_base = (request * heads + kv_head * group) * length
    lse_ptr += row_base
    delta_ptr += row_base

    steps = group * full_tiles
    for step in range(steps * split // splits, steps * (split + 1) // splits):
        head = step // full_tiles
        rows = full_row + (step - head * full_tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
        head = head.to(tl.int64)
        query = load_all_rows(query_ptr + head * query_stride_h, rows, query_stride_s, D, BLOCK_D)
        grad = load_all_rows(grad_ptr + head * grad_stride_h, rows, grad_stride_s, D, BLOCK_D)
        lse = tl.load(lse_ptr + head * length + rows)
        delta = tl.load(delta_ptr + head * length + rows)
        weights, d_scores = _scores(keys, values, query, grad, lse, delta, scale_log2)
        d_values = tl.dot(weights.to(grad.dtype), grad, d_values, input_precision="ieee")
        d_keys = tl.dot(d_scores.to(query.dtype), query, d_keys, input_precision="ieee")
    steps = group * edge_tiles
    for step in range(steps * split // splits, steps * (split + 1) // splits):
        head = step // edge_tiles
        behind = (step - head * edge_tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
        row_exists = behind < edge_rows
        rows = tl.where(behind < before, first_slot + behind, edge_row + behind - before)
        rows = tl.where(row_exists, rows, -1)
        head = head.to(tl.int64)
        query = load_rows(
            query_ptr + head * query_stride_h, rows, query_stride_s, row_exists, D, BLOCK_D
        )
        grad = load_rows(
            grad_ptr + head * grad_stride_h, rows, grad_stride_s, row_exists, D, BLOCK_D
        )
        lse = tl.load(lse_ptr + head * length + rows, mask=row_exists, other=-float("inf"))
        # A row that sees nothing weighs 0 everywhere.
        lse = tl.where(lse == -float("inf"), float("inf"), lse)
        delta = tl.load(delta_ptr + head * length + rows, mask=row_exists, other=0.0)
        weights, d_scores = _scores(keys, values, query, grad, lse, delta, scale_log2)
        visible = sees(rows[None, :], slots[:, None], reach)
        weights = tl.where(visible, weights, 0.0)
        d_scores = tl.where(visible, d_scores, 0.0)
        d_values = tl.dot(weights.to(grad.dtype), grad, d_values, input_precision="ieee")
        d_keys = tl.dot(d_scores.to(query.dtype), query, d_keys, input_precision="ieee")

    dims = tl.arange(0, BLOCK_D)
    in_row = (dims < D)[None, :]
    if splits > 1:
        part = pair.to(tl.int64) * split_programs + program
        parts = part * BLOCK_N + tl.arange(0, BLOCK_N)
        pointers = partial_ptr + parts[:, None] * D + dims[None, :]
        tl.store(pointers, d_keys, mask=in_row)
        values_at = pairs.to(tl.int64) * split_programs * BLOCK_N * D
        tl.store(pointers + values_at, d_values, mask=in_row)
    else:
        offsets = (pair.to(tl.int64) * length + slots)[:, None] * D + dims[None, :]
        mask = key_exists[:, None] & in_row
        tl.store(d_key_ptr + offsets, (d_keys * scale).to(d_key_ptr.dtype.element_ty), mask=mask)
        tl.store(d_value_ptr + offsets, d_values.to(d_value_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _scores(keys, values, query, grad, lse, delta, scale_log2):
    """Weights and gradients of the scores, both `[BLOCK_N, BLOCK_M]`, keys by rows."""
    scores = tl.dot(keys, tl.trans(query), input_precision="ieee") * scale_log2
    weights = tl.exp2(scores - (lse * 1.4426950408889634)[None, :])
    d_weights = tl.dot(values, tl.trans(grad), input_precision="ieee")
    return weights, weights * (d_weights - delta[None, :])


@triton.jit(do_not_specialize=["length", "kv_heads", "split_programs", "max_splits"])
def add_splits_kernel(
    partial_ptr,  # [2, B * Hkv, split_programs, BLOCK_N, D] float32
    d_key_ptr,  # [B, Hkv, S, D] contiguous, written
    d_value_ptr,  # [B, Hkv, S, D] contiguous, written
    order_ptr,  # [B, S] int32
    rank_ptr,  # [B, S + 1] int32
    kv_heads,  # Hkv
    length,  # S
    scale,
    split_programs,
    max_splits,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ROWS: tl.constexpr,
):
    # Grid: (tiles of anchors that may be split * BLOCK_N / ROWS, B * Hkv).
    pair = tl.program_id(1).to(tl.int64)
    request = pair // kv_heads
    anchors = tl.load(rank_ptr + request * (length + 1) + length)
    anchor_tiles = tl.cdiv(anchors, BLOCK_N)
    splits = anchor_splits(anchor_tiles, split_programs, max_splits)
    tile = tl.program_id(0) // (BLOCK_N // ROWS)
    if (splits == 1) | (tile >= anchor_tiles):
        return
    numbers = tl.program_id(0) % (BLOCK_N // ROWS) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, BLOCK_D)
    in_row = (dims < D)[None, :]
    first = (pair * split_programs + tile * splits) * BLOCK_N
    pointers = partial_ptr + (first + numbers)[:, None] * D + dims[None, :]
    half = tl.num_programs(1).to(tl.int64) * split_programs * BLOCK_N * D
    d_keys = tl.zeros([ROWS, BLOCK_D], tl.float32)
    d_values = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for _ in range(splits):
        d_keys += tl.load(pointers, mask=in_row, other=0.0)
        d_values += tl.load(pointers + half, mask=in_row, other=0.0)
        pointers += BLOCK_N * D
    place = tile * BLOCK_N + numbers
    key_exists = place < anchors
    slots = tl.load(order_ptr + request * length + place, mask=key_exists, other=0)
    offsets = (pair * length + slots)[:, None] * D + dims[None, :]
    mask = key_exists[:, None] & in_row
    tl.store(d_key_ptr + offsets, (d_keys * scale).to(d_key_ptr.dtype.element_ty), mask=mask)
    tl.store(d_value_ptr + offsets, d_values.to(d_value_ptr.dtype.element_ty), mask=mask)
