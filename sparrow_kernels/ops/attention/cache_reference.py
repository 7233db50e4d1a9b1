"""The definition of the cache appends: new rows go behind each request's prefix, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.reference import accumulation_dtype
from sparrow_kernels.ops.pages import paged_slot


def append_cache_(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    prefix_lens: Tensor,
    block_table: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> None:
    """Copy row i of each request to slot prefix_len + i; rows that would lie outside are dropped.

    One slice copy a request and cache, or a row's with pages: the lengths are read on the host.
    """
    if key.dtype != key_cache.dtype:
        key, value = _quantized(key, key_scale), _quantized(value, value_scale)
    if block_table is not None:
        _append_to_pages(key, value, key_cache, value_cache, prefix_lens, block_table)
        return
    rows, slots = key.shape[2], key_cache.shape[2]
    for b, length in enumerate(prefix_lens.tolist()):
        first, last = max(-length, 0), min(rows, slots - length)
        if first < last:
            for new, cache in ((key, key_cache), (value, value_cache)):
                cache[b, :, length + first : length + last].copy_(new[b, :, first:last])


def _append_to_pages(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    prefix_lens: Tensor,
    block_table: Tensor,
) -> None:
    for b, length in enumerate(prefix_lens.tolist()):
        for i in range(key.shape[2]):
            page, row = paged_slot(block_table, key_cache, b, length + i)
            if page >= 0:
                key_cache[page, :, row] = key[b, :, i]
                value_cache[page, :, row] = value[b, :, i]


def _quantized(rows: Tensor, scale: Tensor | None) -> Tensor:
    """`[B, heads, T, D]` over their scales `[B | 1, heads | 1]` as float8: rounded to nearest even,
    saturated at 448; a NaN stays one."""
    rows = rows.float() if scale is None else rows.float() / scale[:, :, None, None]
    return rows.clamp(-448.0, 448.0).to(torch.float8_e4m3fn)


def rotate_append_(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    prefix_lens: Tensor,
    block_table: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> Tensor:
    """Rotate query and key by rotate-half over all of D, append key and value, return the query."""
    rotated = _rotate(key, cos, sin)
    if key.dtype == key_cache.dtype:
        rotated = rotated.to(key.dtype)
    scales = key_scale, value_scale
    append_cache_(rotated, value, key_cache, value_cache, prefix_lens, block_table, *scales)
    return _rotate(query, cos, sin).to(query.dtype).contiguous()


def _rotate(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x * cos + (-x2, x1) * sin` on `[B, heads, T, D]`, not rounded yet."""
    dtype = accumulation_dtype(rows.dtype)
    first, second = rows.to(dtype).chunk(2, -1)
    turned = torch.cat((-second, first), -1)
    cos, sin = cos.to(dtype).unsqueeze(1), sin.to(dtype).unsqueeze(1)
    return torch.cat((first, second), -1) * cos + turned * sin
