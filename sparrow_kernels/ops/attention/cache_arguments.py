"""Shape, dtype and device checks of the cache appends: a quick yes, else a search, as of all
attention ops."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.arguments import (
    FLOAT8,
    FLOATS,
    check_floats,
    check_integers,
    check_scale,
)
from sparrow_kernels.ops.attention.hints import refuse_odd_dtype, refuse_swapped_append
from sparrow_kernels.ops.errors import Size, check_rows_are_dense, check_tensor, refuse
from sparrow_kernels.ops.pages import check_block_table


def check_append(
    op: str,
    key: object,
    value: object,
    key_cache: object,
    value_cache: object,
    prefix_lens: object,
    block_table: object | None = None,
    query: object | None = None,
    angles: tuple[object, object] | None = None,
) -> None:
    """New rows `[B, Hkv, T, D]` fit caches; so do `query`, cos and sin if any."""
    sizes: dict[str, Size] = {}
    refuse_swapped_append(op, key, key_cache, query)
    refuse_odd_dtype(op, "key", key, {"key_cache": key_cache, "value_cache": value_cache})
    stored = FLOATS if query is not None else (*FLOATS, FLOAT8)  # as they are, if they are float8
    like = check_tensor(op, "key", key, "B Hkv T D", stored, sizes)
    check_rows_are_dense(op, "key", like)
    check_floats(op, "value", value, "B Hkv T D", sizes, like)
    letters = "B Hkv N D" if block_table is None else "num_pages Hkv page_size D"
    dtypes = tuple({like.dtype: None, FLOAT8: None})
    cache = check_tensor(op, "key_cache", key_cache, letters, dtypes, sizes, like.device)
    check_rows_are_dense(op, "key_cache", cache)
    check_floats(op, "value_cache", value_cache, letters, sizes, cache)
    if block_table is not None:
        check_block_table(op, block_table, sizes["B"], like)
    check_integers(op, "prefix_lens", prefix_lens, "B", sizes, like)
    if query is not None:
        check_floats(op, "query", query, "B Hq T D", sizes, like)
    if angles is not None:
        if sizes["D"] % 2:
            refuse(op, "key", "of an even head dim D, to be rotated in halves", sizes["D"])
        for name, tensor in zip(("cos", "sin"), angles, strict=True):
            given = check_tensor(
                op, name, tensor, "B T D", (torch.float32, like.dtype), sizes, like.device
            )
            check_rows_are_dense(op, name, given)


def check_store_scales(
    op: str, key: Tensor, key_cache: Tensor, key_scale: object, value_scale: object
) -> None:
    """Scales come with rows that are yet to be made float8."""
    for name, scale in (("key_scale", key_scale), ("value_scale", value_scale)):
        if scale is None:
            continue
        if key.dtype == FLOAT8:
            hint = "float8 rows are stored as they are"
            refuse(op, name, "left out beside rows in float8_e4m3fn", "a scale", hint)
        check_scale(op, name, scale, key.shape[0], key_cache)


def append_arguments_fit(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    prefix_lens: Tensor,
    block_table: Tensor | None,
) -> bool:
    """Whether `check_append` would find nothing."""
    if not (
        isinstance(key, Tensor)
        and isinstance(value, Tensor)
        and isinstance(key_cache, Tensor)
        and isinstance(value_cache, Tensor)
        and isinstance(prefix_lens, Tensor)
        and key.dim() == key_cache.dim() == 4
        and prefix_lens.dim() == 1
    ):
        return False
    batch, heads, _, head_dim = key.shape
    cache_batch, cache_heads, _, cache_dim = key_cache.shape
    dtype, device = key.dtype, key.device
    return (
        key.shape == value.shape
        and key_cache.shape == value_cache.shape
        and (heads, head_dim) == (cache_heads, cache_dim)
        and (batch == cache_batch if block_table is None else _fits(block_table, batch, device))
        and prefix_lens.shape[0] == batch
        and prefix_lens.dtype == torch.int32
        and dtype in FLOATS
        and dtype == value.dtype
        and (dtype == key_cache.dtype or key_cache.dtype == FLOAT8)
        and key_cache.dtype == value_cache.dtype
        and device == value.device == key_cache.device == value_cache.device == prefix_lens.device
        and prefix_lens.is_contiguous()
        and key.stride(3) == value.stride(3) == key_cache.stride(3) == value_cache.stride(3) == 1
    )


def _fits(block_table: Tensor, batch: int, device: torch.device) -> bool:
    return (
        isinstance(block_table, Tensor)
        and block_table.dim() == 2
        and block_table.shape[0] == batch
        and block_table.dtype == torch.int32
        and block_table.device == device
        and block_table.stride(1) == 1
    )


def rotation_arguments_fit(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether `check_append` would find nothing about these, given a `key` that fits."""
    if not (
        isinstance(query, Tensor)
        and isinstance(cos, Tensor)
        and isinstance(sin, Tensor)
        and query.dim() == 4
        and cos.dim() == 3
    ):
        return False
    batch, _, rows, head_dim = key.shape
    dtype, device = key.dtype, key.device
    return (
        query.shape[0] == batch
        and query.shape[2] == rows
        and query.shape[3] == head_dim
        and head_dim % 2 == 0
        and cos.shape == sin.shape == (batch, rows, head_dim)
        and query.dtype == dtype
        and (cos.dtype == torch.float32 or cos.dtype == dtype)
        and (sin.dtype == torch.float32 or sin.dtype == dtype)
        and query.device == cos.device == sin.device == device
        and query.stride(3) == cos.stride(2) == sin.stride(2) == 1
    )
