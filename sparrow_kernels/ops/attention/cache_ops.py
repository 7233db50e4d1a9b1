"""Defines the cache appends: schema, fake, value check, backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops import native, registry
from sparrow_kernels.ops.attention import cache_checks, cache_reference


def _fake_rotate_append(query: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.shape)


def _rotates_natively(query: Tensor, *_: Any) -> registry.Reason:
    return "it rotates in float32" if query.dtype == torch.float64 else None


APPEND_CACHE = registry.define(
    "append_cache_(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache,"
    " Tensor prefix_lens, Tensor? block_table=None) -> ()",
    fake=lambda *_: None,
    check=cache_checks.append_cache_,
)
APPEND_CACHE.implement("reference", cache_reference.append_cache_)
native.implement(APPEND_CACHE)

ROTATE_APPEND = registry.define(
    "rotate_append_(Tensor query, Tensor key, Tensor value, Tensor cos, Tensor sin,"
    " Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor prefix_lens,"
    " Tensor? block_table=None) -> Tensor",
    fake=_fake_rotate_append,
    check=cache_checks.rotate_append_,
)
ROTATE_APPEND.implement("reference", cache_reference.rotate_append_)
native.implement(ROTATE_APPEND, takes=_rotates_natively)
