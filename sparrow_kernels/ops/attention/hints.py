"""What `[B, T, H, D]` looks like: heads come before rows here, as in PyTorch's own attention. And
whose dtype is the odd one.

Asked only where the arguments do not fit: without the hint, the error would name a sound one.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from sparrow_kernels.ops.errors import refuse, refuse_type

_FLOATS = {torch.float32, torch.float16, torch.bfloat16, torch.float64}


def refuse_swapped_tree(op: str, query: object, key: object, ancestors: object) -> None:
    """Refuse a query whose second dim is what the words call rows, and a key that has its heads
    in the third."""
    if not (isinstance(query, Tensor) and query.dim() == 4):
        return
    if isinstance(ancestors, Tensor) and ancestors.dim() == 3:
        _, second, third, _ = query.shape
        if second == ancestors.shape[1] != third:
            _refuse(op, "query", "[B, Hq, T, D]", query)
    if isinstance(key, Tensor) and key.dim() == 4 and key.shape[1] and key.shape[2]:
        heads = query.shape[1]
        if heads % key.shape[1] != 0 and heads % key.shape[2] == 0:
            _refuse(op, "key", "[B, Hkv, N, D]", key)


def refuse_swapped_sequence(op: str, key: Tensor, anchor_mask: object) -> None:
    """Refuse a key whose second dim is the length of the anchor mask."""
    if isinstance(anchor_mask, Tensor) and anchor_mask.dim() == 2:
        _, second, third, _ = key.shape
        if second == anchor_mask.shape[1] != third:
            _refuse(op, "key", "[B, Hkv, S, D]", key, ", as query and value may be")


def refuse_swapped_append(op: str, key: object, cache: object, query: object | None) -> None:
    """Refuse rows, a cache or queries whose heads fit where they lie in the third dim."""
    if not (
        isinstance(key, Tensor) and isinstance(cache, Tensor) and key.dim() == cache.dim() == 4
    ):
        return
    (_, heads, rows, _), (_, stored_heads, slots, _) = key.shape, cache.shape
    if heads != stored_heads:
        if rows == stored_heads:
            _refuse(op, "key", "[B, Hkv, T, D]", key, ", as those of value may be")
        if heads == slots:
            _refuse(op, "key_cache", "[B, Hkv, N, D]", cache, ", as those of value_cache may be")
        if rows == slots:
            _refuse(op, "key", "[B, Hkv, T, D]", key, ", as those of value and the caches may be")
    if isinstance(query, Tensor) and query.dim() == 4 and query.shape[1] == rows != query.shape[2]:
        _refuse(op, "query", "[B, Hq, T, D]", query)


def refuse_odd_dtype(op: str, argument: str, value: object, others: dict[str, object]) -> None:
    """Refuse the one whose dtype is not the one that all `others` have: they are not to blame."""
    dtypes = {other.dtype for other in others.values() if isinstance(other, Tensor)}
    if not isinstance(value, Tensor) or len(dtypes) != 1 or not {value.dtype, *dtypes} <= _FLOATS:
        return
    if value.dtype not in dtypes:
        wanted = str(dtypes.pop()).removeprefix("torch.")
        must_be, got = f"{wanted}, as {' and '.join(others)}", str(value.dtype)
        hint = f"call .to(torch.{wanted})"
        refuse_type(op, argument, must_be, got.removeprefix("torch."), hint)


def _refuse(op: str, argument: str, letters: str, value: Tensor, others: str = "") -> NoReturn:
    swapped = list(value.transpose(1, 2).shape)
    hint = f"heads and rows look swapped{others}: pass {argument}.transpose(1, 2)"
    refuse(op, argument, f"{letters} = {swapped}", list(value.shape), hint)
