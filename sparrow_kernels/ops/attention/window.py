"""Anchored window attention of whole sequences, forward and backward, in blocks of rows.

Query rows are those of the last R positions; the row of position p sees slot j <= p iff j is an
anchor or p - j < window. Rows are taken in blocks; for each, a rule names the columns to score, and
the definition masks within them:

    scores = scale * q k^T      lse = log-sum-exp(scores)      p = exp(scores - lse)
    out = p v                   delta = sum(p * d_out v^T) - d_lse
    d_scores = p * (d_out v^T - delta)

The reference scores every column up to the block's end. The torch backend scores the anchors and
the window alone, so its cost is that of what is seen; neither holds more than one block's scores,
and grouped heads read their KV head in place. Requests that all see the same share their blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.reference import accumulation_dtype

_ROWS = 128
# Scores of a block of several requests: no more than this many, 4 MiB, which caches still hold.
_SCORES = 1 << 20
Columns = slice | Tensor
# Given the anchors `[S]` bool, the window and a block's first position and end: the columns `[n]`.
Rule = Callable[[Tensor, int, int, int], Columns]


def all_columns(anchors: Tensor, window: int, first: int, end: int) -> Columns:
    """Every column that a row of the block could see."""
    return slice(0, end)


def seen_columns(anchors: Tensor, window: int, first: int, end: int) -> Columns:
    """The columns that a row of the block does see, save the block's own later anchors."""
    window_start = max(first - window + 1, 0) if window else end
    earlier = anchors[:window_start].nonzero().squeeze(1)
    if earlier.numel() == 0:
        return slice(window_start, end)
    return torch.cat((earlier, torch.arange(window_start, end, device=anchors.device)))


class _Block(NamedTuple):
    """Some rows of some requests, and what they see."""

    requests: slice
    rows: slice
    columns: Columns
    visible: Tensor
    """`[r, n]` bool."""


def _blocks(query: Tensor, anchor_mask: Tensor, window: int, rule: Rule) -> Iterator[_Block]:
    batch, heads, rows, _ = query.shape
    length = anchor_mask.shape[1]
    positions = torch.arange(length, device=anchor_mask.device)
    alike = max(batch, 1) if window >= length else 1
    for request in range(0, batch, alike):
        anchors = anchor_mask[request]
        for first in range(length - rows, length, _ROWS):
            end = min(first + _ROWS, length)
            columns = rule(anchors, window, first, end)
            slots = positions[columns]
            if slots.numel() == 0:
                continue
            distance = positions[first:end].unsqueeze(1) - slots
            visible = (distance >= 0) & (anchors[slots] | (distance < window))
            block_rows = slice(first - (length - rows), end - (length - rows))
            step = max(_SCORES // (heads * visible.numel()), 1)
            for b in range(request, request + alike, step):
                requests = slice(b, min(b + step, request + alike))
                yield _Block(requests, block_rows, columns, visible)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    anchor_mask: Tensor,
    window: int,
    scale: float,
    *,
    rule: Rule,
) -> tuple[Tensor, Tensor]:
    """Attention of query `[B, Hq, R, D]` and its log-sum-exp `[B, Hq, R]`."""
    dtype = accumulation_dtype(query.dtype)
    heads, kv_heads = query.shape[1], key.shape[1]
    out = query.new_zeros(query.shape)
    lse = torch.full(query.shape[:3], -torch.inf, dtype=dtype, device=query.device)
    for requests, rows, columns, visible in _blocks(query, anchor_mask, window, rule):
        packed = _pack(query[requests, :, rows], kv_heads, dtype)
        scores = _scores(packed, key[requests, :, columns].to(dtype), visible, scale)
        highest = scores.amax(-1, keepdim=True)
        weights = scores.sub_(_finite(highest)).exp_()
        total = weights.sum(-1, keepdim=True)
        block_out = weights @ value[requests, :, columns].to(dtype)
        # A row that sees nothing: its sums are 0 and its highest score is -inf, as is its lse.
        total.masked_fill_(total == 0.0, 1.0)
        out[requests, :, rows] = _unpack(block_out.div_(total), heads)
        lse[requests, :, rows] = _unpack(highest.add_(total.log_()), heads).squeeze(-1)
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
    grad_lse: Tensor | None = None,
    *,
    rule: Rule,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value; `out` and `lse` are what `forward` gave.

    Backends that hold no whole row at once take delta from `out`; here it comes from the weights,
    which is exact where a row sees one slot alone.
    """
    dtype = accumulation_dtype(query.dtype)
    heads, kv_heads = query.shape[1], key.shape[1]
    d_query = query.new_zeros(query.shape)
    d_key, d_value = (torch.zeros(key.shape, dtype=dtype, device=key.device) for _ in range(2))
    for requests, rows, columns, visible in _blocks(query, anchor_mask, window, rule):
        packed, d_out = (_pack(x[requests, :, rows], kv_heads, dtype) for x in (query, grad))
        keys, values = (x[requests, :, columns].to(dtype) for x in (key, value))
        packed_lse = _pack(lse[requests, :, rows].unsqueeze(-1), kv_heads, dtype)
        weights = _scores(packed, keys, visible, scale).sub_(_finite(packed_lse)).exp_()
        _add(d_value[requests], columns, weights.mT @ d_out)
        d_scores = (d_out @ values.mT).mul_(weights)
        delta = d_scores.sum(-1, keepdim=True)
        if grad_lse is not None:
            d_lse = _pack(grad_lse[requests, :, rows].unsqueeze(-1), kv_heads, dtype)
            # What reaches a row that sees nothing may be NaN, and 0 * NaN is NaN.
            delta -= d_lse.masked_fill(packed_lse == -torch.inf, 0.0)
        d_scores.addcmul_(weights, delta, value=-1.0)
        d_query[requests, :, rows] = _unpack((d_scores @ keys).mul_(scale), heads)
        _add(d_key[requests], columns, (d_scores.mT @ packed).mul_(scale))
    return d_query, d_key.to(key.dtype), d_value.to(value.dtype)


def tangents(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    anchor_mask: Tensor,
    window: int,
    scale: float,
    d_query: Tensor,
    d_key: Tensor,
    d_value: Tensor,
    *,
    rule: Rule,
) -> tuple[Tensor, Tensor]:
    """Forward mode: the tangents of `out` and `lse`, from those of query, key and value.

    Of a row with weights P over what it sees: dS = scale (dq K^T + q dK^T), dlse = sum P dS,
    dout = (P dS) V - dlse out + P dV.
    """
    dtype = accumulation_dtype(query.dtype)
    heads, kv_heads = query.shape[1], key.shape[1]
    d_out, d_lse = query.new_zeros(query.shape), lse.new_zeros(lse.shape)
    for requests, rows, columns, visible in _blocks(query, anchor_mask, window, rule):
        packed, d_packed, packed_out = (
            _pack(x[requests, :, rows], kv_heads, dtype) for x in (query, d_query, out)
        )
        keys, d_keys, values, d_values = (
            x[requests, :, columns].to(dtype) for x in (key, d_key, value, d_value)
        )
        packed_lse = _pack(lse[requests, :, rows].unsqueeze(-1), kv_heads, dtype)
        weights = _scores(packed, keys, visible, scale).sub_(_finite(packed_lse)).exp_()
        d_scores = (d_packed @ keys.mT).add_(packed @ d_keys.mT).mul_(scale).mul_(weights)
        moved_lse = d_scores.sum(-1, keepdim=True)
        moved = d_scores @ values - moved_lse * packed_out + weights @ d_values
        d_out[requests, :, rows] = _unpack(moved, heads)
        d_lse[requests, :, rows] = _unpack(moved_lse, heads).squeeze(-1)
    return d_out, d_lse


def _scores(packed: Tensor, keys: Tensor, visible: Tensor, scale: float) -> Tensor:
    """`[b, Hkv, G * r, n]`, -inf where row `r` does not see the column."""
    scores = (packed * scale) @ keys.mT
    seen_by_all = int(visible.all(0).cumprod(0).sum())  # the first columns, mostly nearly all
    masked = scores[..., seen_by_all:].unflatten(2, (-1, visible.shape[0]))
    masked.masked_fill_(~visible[:, seen_by_all:], -torch.inf)
    return scores


def _finite(lse: Tensor) -> Tensor:
    """A row that sees nothing has lse -inf; taken as it is, -inf - -inf would give NaN."""
    return lse.clamp(min=torch.finfo(lse.dtype).min)


def _add(total: Tensor, columns: Columns, part: Tensor) -> None:
    """Add `part` `[b, Hkv, n, D]` to those columns of `total` `[b, Hkv, S, D]`."""
    if isinstance(columns, slice):
        total[:, :, columns] += part
    else:
        total.index_add_(2, columns, part)


def _pack(rows: Tensor, kv_heads: int, dtype: torch.dtype) -> Tensor:
    """`[b, Hq, r, c]` -> `[b, Hkv, G * r, c]`."""
    return rows.to(dtype).reshape(rows.shape[0], kv_heads, -1, rows.shape[-1])


def _unpack(rows: Tensor, heads: int) -> Tensor:
    """`[b, Hkv, G * r, c]` -> `[b, Hq, r, c]`."""
    return rows.reshape(rows.shape[0], heads, -1, rows.shape[-1])
