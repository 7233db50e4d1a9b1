"""Anchored window attention of a whole sequence, forward and backward, in blocks of rows.

Row i sees slot j <= i iff j is an anchor or i - j < window. Rows are taken in blocks; for each,
a rule names the columns to score, and the definition masks within them:

    scores = scale * q k^T      lse = log-sum-exp(scores)      p = exp(scores - lse)
    out = p v                   delta = sum(p * d_out v^T)       d_scores = p * (d_out v^T - delta)

The reference scores every column up to the block's end. The CPU backend scores the anchors and the
window alone, so its cost is that of what is seen; neither holds more than one block's scores, and
grouped heads read their KV head in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.reference import accumulation_dtype

_ROWS = 128
# Given the anchors `[S]` bool, the window and a block's first row and end: the columns `[n]`.
Columns = Callable[[Tensor, int, int, int], Tensor]


def all_columns(anchors: Tensor, window: int, first: int, end: int) -> Tensor:
    """Every column that a row of the block could see."""
    return torch.arange(end, device=anchors.device)


def seen_columns(anchors: Tensor, window: int, first: int, end: int) -> Tensor:
    """The columns that a row of the block does see, save the block's own later anchors."""
    window_start = min(max(first - window + 1, 0), end)
    band = torch.arange(window_start, end, device=anchors.device)
    if window == 0:
        return anchors[:end].nonzero().squeeze(1)
    return torch.cat((anchors[:window_start].nonzero().squeeze(1), band))


def _visible(anchors: Tensor, window: int, rows: Tensor, columns: Tensor) -> Tensor:
    """`[r, n]` bool, the definition."""
    distance = rows.unsqueeze(1) - columns
    return (distance >= 0) & (anchors[columns] | (distance < window))


def _blocks(
    anchor_mask: Tensor, window: int, rule: Columns
) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """For each request and block of rows: request, rows, columns `[n]`, visible `[r, n]`."""
    batch, length = anchor_mask.shape
    for b in range(batch):
        for first in range(0, length, _ROWS):
            rows = slice(first, min(first + _ROWS, length))
            columns = rule(anchor_mask[b], window, rows.start, rows.stop)
            if columns.numel() == 0:
                continue
            row_numbers = torch.arange(rows.start, rows.stop, device=anchor_mask.device)
            yield b, rows, columns, _visible(anchor_mask[b], window, row_numbers, columns)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    anchor_mask: Tensor,
    window: int,
    scale: float,
    rule: Columns,
) -> tuple[Tensor, Tensor]:
    """Attention of query `[B, Hq, S, D]` and its log-sum-exp `[B, Hq, S]`."""
    dtype = accumulation_dtype(query.dtype)
    out = query.new_zeros(query.shape)
    lse = torch.full(query.shape[:3], -torch.inf, dtype=dtype, device=query.device)
    for b, rows, columns, visible in _blocks(anchor_mask, window, rule):
        packed = _pack(query[b, :, rows], key.shape[1], dtype)
        scores = _scores(packed, key[b, :, columns].to(dtype), visible, scale)
        block_lse = scores.logsumexp(-1, keepdim=True)
        weights = scores.sub_(_finite(block_lse)).exp_()
        out[b, :, rows] = _unpack(weights @ value[b, :, columns].to(dtype), query.shape[1])
        lse[b, :, rows] = _unpack(block_lse, query.shape[1]).squeeze(-1)
    return out, lse


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
    rule: Columns,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value; `out` and `lse` are what `forward` gave.

    Backends that hold no whole row at once take delta from `out`; here it comes from the weights,
    which is exact where a row sees one slot alone.
    """
    dtype = accumulation_dtype(query.dtype)
    kv_heads = key.shape[1]
    d_query = query.new_zeros(query.shape)
    d_key, d_value = (torch.zeros(key.shape, dtype=dtype, device=key.device) for _ in range(2))
    for b, rows, columns, visible in _blocks(anchor_mask, window, rule):
        packed, d_out = (_pack(whole[b, :, rows], kv_heads, dtype) for whole in (query, grad))
        keys, values = key[b, :, columns].to(dtype), value[b, :, columns].to(dtype)
        packed_lse = _pack(lse[b, :, rows].unsqueeze(-1), kv_heads, dtype)
        weights = _scores(packed, keys, visible, scale).sub_(_finite(packed_lse)).exp_()
        d_value[b].index_add_(1, columns, weights.mT @ d_out)
        d_weights = d_out @ values.mT
        delta = (d_weights * weights).sum(-1, keepdim=True)
        d_scores = d_weights.sub_(delta).mul_(weights).mul_(scale)
        d_query[b, :, rows] = _unpack(d_scores @ keys, query.shape[1])
        d_key[b].index_add_(1, columns, d_scores.mT @ packed)
    return d_query, d_key.to(key.dtype), d_value.to(value.dtype)


def _scores(packed: Tensor, keys: Tensor, visible: Tensor, scale: float) -> Tensor:
    """`[Hkv, G * r, n]`, -inf where row `r` does not see the column."""
    scores = (packed @ keys.mT).mul_(scale)
    group = packed.shape[1] // visible.shape[0]
    scores.unflatten(1, (group, -1)).masked_fill_(~visible, -torch.inf)
    return scores


def _finite(lse: Tensor) -> Tensor:
    """A row that sees nothing has lse -inf; taken as it is, -inf - -inf would give NaN."""
    return lse.clamp(min=torch.finfo(lse.dtype).min)


def _pack(rows: Tensor, kv_heads: int, dtype: torch.dtype) -> Tensor:
    """`[Hq, r, c]` -> `[Hkv, G * r, c]`."""
    return rows.to(dtype).reshape(kv_heads, -1, rows.shape[-1])


def _unpack(rows: Tensor, heads: int) -> Tensor:
    """`[Hkv, G * r, c]` -> `[Hq, r, c]`."""
    return rows.reshape(heads, -1, rows.shape[-1])
