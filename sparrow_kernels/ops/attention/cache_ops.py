"""Defines the cache appends: schema, fake, value check, backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops import native, registry
from sparrow_kernels.ops.attention import cache_checks, cache_reference


def _fake_rotate_append(query: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.shape)


_SCALES = "Tensor? key_scale=None, Tensor? value_scale=None"


def _quantizes_natively(key: Tensor, key_cache: Tensor) -> registry.Reason:
    if key.dtype == key_cache.dtype:
        return None
    if key.device.type == "cuda":
        return (
            "rows are made float8 on a CPU only; on a GPU append"
            " (key.float() / key_scale[..., None, None]).clamp(-448, 448).to(key_cache.dtype)"
            " and the values likewise, with append_cache_ and no scales"
        )
    return "float64 rows are made float8 by the reference" if key.dtype == torch.float64 else None


def _appends_natively(key: Tensor, _: Tensor, key_cache: Tensor, *__: Any) -> registry.Reason:
    return _quantizes_natively(key, key_cache)


def _rotates_natively(query: Tensor, *rest: Any) -> registry.Reason:
    if query.dtype == torch.float64:
        return "it rotates in float32"
    return _quantizes_natively(query, rest[4])


APPEND_CACHE = registry.define(
    "append_cache_(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache,"
    f" Tensor prefix_lens, Tensor? block_table=None, {_SCALES}) -> ()",
    fake=lambda *_: None,
    check=cache_checks.append_cache_,
)
APPEND_CACHE.implement("reference", cache_reference.append_cache_)
native.implement(APPEND_CACHE, takes=_appends_natively)

ROTATE_APPEND = registry.define(
    "rotate_append_(Tensor query, Tensor key, Tensor value, Tensor cos, Tensor sin,"
    " Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor prefix_lens,"
    f" Tensor? block_table=None, {_SCALES}) -> Tensor",
    fake=_fake_rotate_append,
    check=cache_checks.rotate_append_,
)
ROTATE_APPEND.implement("reference", cache_reference.rotate_append_)
native.implement(ROTATE_APPEND, takes=_rotates_natively)
