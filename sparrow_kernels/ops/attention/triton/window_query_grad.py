"""The query's gradient of anchored window attention, and delta.

    p = 2^((scale * q k^T) / ln 2 - lse / ln 2)      delta = sum(grad * out) - grad_lse
    d_scores = p (grad v^T - delta)                  d_query = scale * d_scores k

Grid: one program for each tile of BLOCK_M rows (last, longest, first), request and query head
(fastest).
A program keeps its rows of query and grad and its sums in registers and gathers BLOCK_N keys at a
time, the same ones in the same order as the forward.
Bytes: query, grad, out and d_query once, key and value once for each row tile that sees them, out
of the L2; flops: 6 D a seen pair; exponentials: 1 a pair. Bound by the matmul rate.
Relies on the plan (window_plan.py) and on contiguous out, lse. Not handled: float64, D > 256.
"""

from __future__ import annotations

# The arguments of a kernel are of types that only Triton knows.
# mypy: allow-untyped-defs
import triton
import triton.language as tl

from sparrow_kernels.ops.attention.triton.window_keys import (
    edge_slots,
    full_slots,
    key_reach,
    load_all_rows,
    load_rows,
    row_tile_keys,
    sees,
)


@triton.jit(do_not_specialize=["batch", "heads", "group", "length", "query_rows", "window"])
def query_grad_kernel(
    grad_ptr,  # [B, Hq, R, D]
    query_ptr,  # [B, Hq, R, D]
    key_ptr,  # [B, Hkv, S, D]
    value_ptr,  # [B, Hkv, S, D]
    out_ptr,  # [B, Hq, R, D] contiguous
    lse_ptr,  # [B, Hq, R] float32
    grad_lse_ptr,  # [B, Hq, R] float32 contiguous, or None
    delta_ptr,  # [B, Hq, S] float32, written at the rows' positions
    d_query_ptr,  # [B, Hq, R, D] contiguous, written
    mask_ptr,  # [B, S] uint8, 1 for an anchor
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
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Grid: (ceil(R / BLOCK_M) * B * Hq,).
    offset = length - query_rows  # Rows go by their positions, [offset, length).
    row_tiles = tl.cdiv(query_rows, BLOCK_M)
    head = tl.program_id(0) % heads
    tile = tl.program_id(0) // heads
    request = (tile % batch).to(tl.int64)
    first_row = offset + (row_tiles - 1 - tile // batch) * BLOCK_M
    end_row = tl.minimum(first_row + BLOCK_M, length)
    kv_head = (head // group).to(tl.int64)
    head = head.to(tl.int64)
    grad_ptr += request * grad_stride_b + head * grad_stride_h
    query_ptr += request * query_stride_b + head * query_stride_h
    grad_ptr -= tl.cast(offset, tl.int64) * grad_stride_s
    query_ptr -= tl.cast(offset, tl.int64) * query_stride_s
    key_ptr += request * key_stride_b + kv_head * key_stride_h
    value_ptr += request * value_stride_b + kv_head * value_stride_h
    mask_ptr += request * length
    order_ptr += request * length
    rank_ptr += request * (length + 1)
    head_base = (request * heads + head) * query_rows - offset
    delta_ptr += (request * heads + head) * length

    rows = first_row + tl.arange(0, BLOCK_M)
    row_exists = rows < end_row
    query = load_rows(query_ptr, rows, query_stride_s, row_exists, D, BLOCK_D)
    grad = load_rows(grad_ptr, rows, grad_stride_s, row_exists, D, BLOCK_D)
    out = load_rows(out_ptr + head_base * D, rows, D, row_exists, D, BLOCK_D)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    lse = tl.load(lse_ptr + head_base + rows, mask=row_exists, other=-float("inf"))
    if grad_lse_ptr is not None:
        # What reaches a row that sees nothing may be NaN, and 0 * NaN is NaN.
        seeing = row_exists & (lse != -float("inf"))
        delta -= tl.load(grad_lse_ptr + head_base + rows, mask=seeing, other=0.0)
    tl.store(delta_ptr + rows, delta, mask=row_exists)
    # A row that sees nothing, as one beyond the end, weighs 0 everywhere.
    lse = tl.where(lse == -float("inf"), float("inf"), lse)
    lse_log2 = lse * 1.4426950408889634
    sums = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    full, total, listed, window_start, middle_start, middle_end = row_tile_keys(
        rank_ptr, first_row, end_row, window
    )
    unmasked_end = full // BLOCK_N * BLOCK_N
    for first in range(0, unmasked_end, BLOCK_N):
        slots = full_slots(order_ptr, first + tl.arange(0, BLOCK_N), listed, middle_start)
        keys = load_all_rows(key_ptr, slots, key_stride_s, D, BLOCK_D)
        values = load_all_rows(value_ptr, slots, value_stride_s, D, BLOCK_D)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale_log2
        weights = tl.exp2(scores - lse_log2[:, None])
        d_weights = tl.dot(grad, tl.trans(values), input_precision="ieee")
        d_scores = weights * (d_weights - delta[:, None])
        sums = tl.dot(d_scores.to(keys.dtype), keys, sums, input_precision="ieee")
    for first in range(unmasked_end, total, BLOCK_N):
        place = first + tl.arange(0, BLOCK_N)
        slots = edge_slots(order_ptr, place, total, listed, window_start, middle_start, middle_end)
        key_exists = place < total
        keys = load_rows(key_ptr, slots, key_stride_s, key_exists, D, BLOCK_D)
        values = load_rows(value_ptr, slots, value_stride_s, key_exists, D, BLOCK_D)
        reach = key_reach(mask_ptr, slots, key_exists, window, length)
        visible = sees(rows[:, None], slots[None, :], reach[None, :])
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale_log2
        weights = tl.exp2(scores - lse_log2[:, None])
        d_weights = tl.dot(grad, tl.trans(values), input_precision="ieee")
        d_scores = tl.where(visible, weights * (d_weights - delta[:, None]), 0.0)
        sums = tl.dot(d_scores.to(keys.dtype), keys, sums, input_precision="ieee")

    dims = tl.arange(0, BLOCK_D)
    tl.store(
        d_query_ptr + (head_base + rows)[:, None] * D + dims[None, :],
        (sums * scale).to(d_query_ptr.dtype.element_ty),
        mask=row_exists[:, None] & (dims < D)[None, :],
    )
