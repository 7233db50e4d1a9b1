"""Gradients of anchored window attention, without atomics: the same bits every time.

The query's gradient comes from one kernel, by tiles of rows as in the forward; it also stores
delta, which the other needs. The gradients of key and value come from a second kernel, by tiles of
keys, and a third adds up what the second had to split. Scratch: delta, the plan, and float32 sums
of at most as many key tiles as there are programs to fill the GPU with, whatever S.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from sparrow_kernels.ops.attention.triton.window_forward import LOG2_E
from sparrow_kernels.ops.attention.triton.window_key_grad import (
    ADDED_ROWS,
    add_splits_kernel,
    key_grad_kernel,
)
from sparrow_kernels.ops.attention.triton.window_plan import plan
from sparrow_kernels.ops.attention.triton.window_query_grad import query_grad_kernel
from sparrow_kernels.ops.attention.triton.window_tiles import (
    block_dim,
    split_programs,
    tiles_for,
)

# Fewer steps than this are not worth a program of their own.
_STEPS = 8


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    anchor_mask: Tensor,
    window: int,
    scale: float,
    grad_lse: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, contiguous; `out` and `lse` are what `forward` gave."""
    batch, heads, rows, head_dim = query.shape
    kv_heads, length = key.shape[1:3]
    d_query, d_key, d_value = (
        torch.empty(like.shape, dtype=like.dtype, device=like.device)
        for like in (query, key, value)
    )
    if query.numel() == 0:
        return d_query, d_key.zero_(), d_value.zero_()
    mask, order, rank = plan(anchor_mask)
    out, lse = out.contiguous(), lse.contiguous()
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    delta = torch.empty((batch, heads, length), dtype=torch.float32, device=query.device)
    strides = [stride for x in (grad, query, key, value) for stride in x.stride()[:3]]
    scale = float(scale)
    group = heads // kv_heads
    sizes = (batch, heads, group, length, rows, min(window, length), scale, scale * LOG2_E)
    dims = {"D": head_dim, "BLOCK_D": block_dim(head_dim)}

    tiles = tiles_for("query", query)
    query_grad_kernel[(triton.cdiv(rows, tiles.rows) * batch * heads,)](
        *(grad, query, key, value, out, lse, grad_lse, delta, d_query, mask, order, rank),
        *strides,
        *sizes,
        **dims,
        **tiles.options(),
    )
    if rows < length:
        lse = torch.nn.functional.pad(lse, (length - rows, 0))
    tiles = tiles_for("key", query)
    pairs, key_tiles = batch * kv_heads, triton.cdiv(length, tiles.keys)
    max_splits = max(group * triton.cdiv(rows, tiles.rows) // _STEPS, 1)
    split = min(split_programs(query.device, pairs), key_tiles * max_splits)
    may_be_split = min(key_tiles, split // 2) if max_splits > 1 else 0
    sums = (2, pairs, split, tiles.keys, head_dim) if may_be_split else (0,)
    partial = torch.empty(sums, dtype=torch.float32, device=query.device)
    key_grad_kernel[((max(key_tiles, split) + key_tiles) * pairs,)](
        *(grad, query, key, value, lse, delta, d_key, d_value, partial, order, rank),
        *strides,
        *sizes,
        split,
        max_splits,
        **dims,
        **tiles.options(),
    )
    if may_be_split:
        add_splits_kernel[(may_be_split * tiles.keys // ADDED_ROWS, pairs)](
            *(partial, d_key, d_value, order, rank),
            *(kv_heads, length, scale, split, max_splits),
            **dims,
            BLOCK_N=tiles.keys,
            ROWS=ADDED_ROWS,
            num_warps=4,
        )
    return d_query, d_key, d_value
