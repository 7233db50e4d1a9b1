"""Anchored window attention of a whole sequence: online softmax over the keys that are seen.

    s = scale * q k^T      m' = max(m, max s)      p = 2^((s - m') / ln 2)
    l = l 2^(m - m') + sum p      acc = acc 2^(m - m') + p v      out = acc / l

Grid: one program for each tile of BLOCK_M rows (last, longest, first), request and query head
(fastest, so that the heads of a group share their keys in the L2).
A program keeps its query rows and its sums in registers. It gathers BLOCK_N keys at a time, first
those that all rows see, without a mask, then the window's edge and the diagonal.
Bytes: query and out once, key and value once for each row tile that sees them, out of the L2;
flops: 4 D a seen pair; exponentials: 1 a pair. Bound by the matmul rate from some 100 seen keys on.
Relies on the plan (window_plan.py) and on rows contiguous in D. Not handled: float64, D > 256.
"""

from __future__ import annotations

# The arguments of a kernel are of types that only Triton knows.
# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor

from sparrow_kernels.ops.attention.triton.window_keys import (
    edge_slots,
    full_slots,
    key_reach,
    load_all_rows,
    load_rows,
    row_tile_keys,
    sees,
)
from sparrow_kernels.ops.attention.triton.window_plan import plan
from sparrow_kernels.ops.attention.triton.window_tiles import block_dim, tiles_for

LOG2_E = 1.4426950408889634


def forward(
    query: Tensor, key: Tensor, value: Tensor, anchor_mask: Tensor, window: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of query `[B, Hq, R, D]` and its natural log-sum-exp `[B, Hq, R]` float32."""
    batch, heads, rows, head_dim = query.shape
    length = key.shape[2]
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    lse = torch.empty((batch, heads, rows), dtype=torch.float32, device=query.device)
    if out.numel() == 0:
        return out, lse.fill_(-torch.inf)
    mask, order, rank = plan(anchor_mask)
    tiles = tiles_for("forward", query)
    forward_kernel[(batch * triton.cdiv(rows, tiles.rows) * heads,)](
        query,
        key,
        value,
        out,
        lse,
        mask,
        order,
        rank,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        batch,
        heads,
        heads // key.shape[1],
        length,
        rows,
        min(window, length),
        scale * LOG2_E,
        D=head_dim,
        BLOCK_D=block_dim(head_dim),
        **tiles.options(),
    )
    return out, lse


@triton.jit(do_not_specialize=["batch", "heads", "group", "length", "query_rows", "window"])
def forward_kernel(
    query_ptr,  # [B, Hq, R, D]
    key_ptr,  # [B, Hkv, S, D]
    value_ptr,  # [B, Hkv, S, D]
    out_ptr,  # [B, Hq, R, D] contiguous
    lse_ptr,  # [B, Hq, R] float32
    mask_ptr,  # [B, S] uint8, 1 for an anchor
    order_ptr,  # [B, S] int32
    rank_ptr,  # [B, S + 1] int32
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
    query_ptr += request * query_stride_b + head.to(tl.int64) * query_stride_h
    query_ptr -= tl.cast(offset, tl.int64) * query_stride_s
    kv_head = (head // group).to(tl.int64)
    key_ptr += request * key_stride_b + kv_head * key_stride_h
    value_ptr += request * value_stride_b + kv_head * value_stride_h
    mask_ptr += request * length
    order_ptr += request * length
    rank_ptr += request * (length + 1)

    rows = first_row + tl.arange(0, BLOCK_M)
    row_exists = rows < end_row
    query = load_rows(query_ptr, rows, query_stride_s, row_exists, D, BLOCK_D)
    sums = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total_weight = tl.zeros([BLOCK_M], tl.float32)
    highest = tl.full([BLOCK_M], -float("inf"), tl.float32)

    full, total, listed, window_start, middle_start, middle_end = row_tile_keys(
        rank_ptr, first_row, end_row, window
    )
    unmasked_end = full // BLOCK_N * BLOCK_N
    for first in range(0, unmasked_end, BLOCK_N):
        slots = full_slots(order_ptr, first + tl.arange(0, BLOCK_N), listed, middle_start)
        keys = load_all_rows(key_ptr, slots, key_stride_s, D, BLOCK_D)
        values = load_all_rows(value_ptr, slots, value_stride_s, D, BLOCK_D)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale_log2
        sums, total_weight, highest = _fold(scores, values, sums, total_weight, highest)
    for first in range(unmasked_end, total, BLOCK_N):
        place = first + tl.arange(0, BLOCK_N)
        slots = edge_slots(order_ptr, place, total, listed, window_start, middle_start, middle_end)
        key_exists = place < total
        keys = load_rows(key_ptr, slots, key_stride_s, key_exists, D, BLOCK_D)
        values = load_rows(value_ptr, slots, value_stride_s, key_exists, D, BLOCK_D)
        reach = key_reach(mask_ptr, slots, key_exists, window, length)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale_log2
        scores = tl.where(
            sees(rows[:, None], slots[None, :], reach[None, :]), scores, -float("inf")
        )
        sums, total_weight, highest = _fold(scores, values, sums, total_weight, highest)

    blind = total_weight == 0.0
    total_weight = tl.where(blind, 1.0, total_weight)
    out = sums / total_weight[:, None]
    # A blind row's highest score is -inf, and so is its log-sum-exp.
    lse = (highest + tl.log2(total_weight)) * 0.6931471805599453
    row_base = (request * heads + head) * query_rows - offset
    dims = tl.arange(0, BLOCK_D)
    out_pointers = out_ptr + (row_base + rows)[:, None] * D + dims[None, :]
    tl.store(
        out_pointers,
        out.to(out_ptr.dtype.element_ty),
        mask=row_exists[:, None] & (dims < D)[None, :],
    )
    tl.store(lse_ptr + row_base + rows, lse, mask=row_exists)


@triton.jit
def _fold(scores, values, sums, total_weight, highest):
    """Take one tile of base-2 scores `[BLOCK_M, BLOCK_N]` and its values into the running sums."""
    new_highest = tl.maximum(highest, tl.max(scores, 1))
    # A row that has seen nothing yet: -inf - -inf would be NaN.
    subtract = tl.where(new_highest == -float("inf"), 0.0, new_highest)
    weights = tl.exp2(scores - subtract[:, None])
    keep = tl.exp2(highest - subtract)
    total_weight = total_weight * keep + tl.sum(weights, 1)
    sums = sums * keep[:, None]
    sums = tl.dot(weights.to(values.dtype), values, sums, input_precision="ieee")
    return sums, total_weight, new_highest
