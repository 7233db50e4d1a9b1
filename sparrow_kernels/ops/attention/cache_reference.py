"""The definition of the cache appends: new rows go behind each request's prefix, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.reference import accumulation_dtype


def append_cache_(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, prefix_lens: Tensor
) -> None:
    """Copy row i of each request to slot prefix_len + i; rows that would lie outside are dropped.

    One slice copy a request and cache: the lengths are read on the host.
    """
    rows, slots = key.shape[2], key_cache.shape[2]
    for b, length in enumerate(prefix_lens.tolist()):
        first, last = max(-length, 0), min(rows, slots - length)
        if first < last:
            for new, cache in ((key, key_cache), (value, value_cache)):
                cache[b, :, length + first : length + last].copy_(new[b, :, first:last])


def rotate_append_(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    prefix_lens: Tensor,
) -> Tensor:
    """Rotate query and key by rotate-half over all of D, append key and value, return the query."""
    append_cache_(_rotate(key, cos, sin), value, key_cache, value_cache, prefix_lens)
    return _rotate(query, cos, sin).contiguous()


def _rotate(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x * cos + (-x2, x1) * sin` on `[B, heads, T, D]`, rounded once."""
    dtype = accumulation_dtype(rows.dtype)
    first, second = rows.to(dtype).chunk(2, -1)
    turned = torch.cat((-second, first), -1)
    cos, sin = cos.to(dtype).unsqueeze(1), sin.to(dtype).unsqueeze(1)
    return (torch.cat((first, second), -1) * cos + turned * sin).to(rows.dtype)
