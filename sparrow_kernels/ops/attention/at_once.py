"""Tree attention called eagerly on a CPU: one call of the native library, which checks its
arguments and their values in the same pass.

It runs in every layer of every step, where what stands before the kernel is a good part of it. What
somebody watches, another backend takes or the library refuses goes the long way, where Python says
what is wrong.
"""

from __future__ import annotations

from functools import cache
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops import env, native
from sparrow_kernels.ops.library import NATIVE, unavailable
from sparrow_kernels.ops.registry import nobody_watches
from sparrow_kernels.ops.transforms import mark_written
from sparrow_kernels.ops.types import AnchorIndex

_BACKENDS = ("auto", "native")
_NO_ANCHORS = (None, None, None)
_INTEGER = (int, type(None))


@cache
def _symbols() -> tuple[Any, Any] | None:
    """The two forms of the native op, None without the library."""
    if unavailable() is not None:
        return None
    if not hasattr(NATIVE, "tree_attention_at_once"):
        return None
    return NATIVE.tree_attention_at_once.default, NATIVE.tree_attention_out_at_once.default


def attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor,
    prefix_lens: Tensor,
    prefix_starts: Tensor | None,
    anchors: AnchorIndex | None,
    window: int | None,
    depth: Tensor | None,
    scale: float | None,
    num_splits: int | None,
    block_table: Tensor | None,
    key_bias: Tensor | None,
    return_lse: bool,
    out: Any,
) -> Any:
    """What `tree_attention` returns, or None where the long way is to be taken: nothing has been
    written then."""
    # Each line here is a fair share of what is left of a call.
    result, lse = out if isinstance(out, tuple) and len(out) == 2 else (out, None)
    written = (result, lse)
    watched = (query, key, value, key_bias, *written)
    if torch.compiler.is_dynamo_compiling() or not nobody_watches(watched):
        return None
    symbols = _symbols()
    if (
        symbols is None
        or not query.is_cpu
        or query.dtype is torch.float64
        or torch._C._is_any_autocast_enabled()
        or env.current_backend() not in _BACKENDS
        or not (anchors is None or type(anchors) is AnchorIndex)
        or type(window) not in _INTEGER
        or type(num_splits) not in _INTEGER
    ):
        return None
    new, into = symbols
    try:
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        checked = env.are_checked("cpu")
        if type(scale) is not float or not isfinite(scale):
            return None
        if checked and key_bias is not None and not _is_below_inf(key_bias):
            return None
        rest = (prefix_starts, *(anchors or _NO_ANCHORS), window, depth, scale, num_splits)
        inputs = (query, key, value, ancestors, prefix_lens, *rest)
        last = (block_table, key_bias, checked)
        if out is None and not return_lse:
            return new(*inputs, *last)
        if out is None:
            result = query.new_empty(query.shape)
        if lse is None and return_lse:
            lse = query.new_empty(query.shape[:3], dtype=torch.float32)
        into(*inputs, result, lse, *last)
    except native.REFUSALS:
        return None
    for given in written:
        mark_written(given)
    return (result, lse) if return_lse else result


def _is_below_inf(bias: Tensor) -> bool:
    """Without NaN and +inf, wherever they are: the long way looks where they are read."""
    return bias.numel() == 0 or bool(bias.amax() < inf)
