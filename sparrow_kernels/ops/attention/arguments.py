"""Shape, dtype and device checks of the attention ops.

An attention call runs in every layer of every step, so the checks come twice: a quick yes, and
only where it is no, the slow search for the argument to name.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.hints import refuse_odd_dtype, refuse_swapped_tree
from sparrow_kernels.ops.errors import (
    Size,
    check_integer,
    check_number,
    check_rows_are_dense,
    check_tensor,
    refuse,
    refuse_type,
)
from sparrow_kernels.ops.types import AnchorIndex

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
FLOAT8 = torch.float8_e4m3fn
"""What caches may also be in, beside the dtype of the rows that attend to them."""


def tree_arguments_fit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor,
    prefix_lens: Tensor,
    paged: bool,
) -> bool:
    """Whether `check_tree_arguments` would find nothing."""
    if not (
        isinstance(query, Tensor)
        and isinstance(key, Tensor)
        and isinstance(value, Tensor)
        and isinstance(ancestors, Tensor)
        and isinstance(prefix_lens, Tensor)
        and query.dim() == key.dim() == 4
        and ancestors.dim() == 3
        and prefix_lens.dim() == 1
    ):
        return False
    batch, heads, rows, head_dim = query.shape
    key_batch, kv_heads, _, key_dim = key.shape
    words_batch, words_rows, words = ancestors.shape
    dtype, device = query.dtype, query.device
    return (
        key.shape == value.shape
        and batch == words_batch == prefix_lens.shape[0]
        and (paged or batch == key_batch)
        and head_dim == key_dim
        and rows == words_rows
        and words >= 1
        and kv_heads >= 1
        and heads % kv_heads == 0
        and dtype in FLOATS
        and (dtype == key.dtype or key.dtype == FLOAT8)
        and key.dtype == value.dtype
        and ancestors.dtype == torch.int64
        and prefix_lens.dtype == torch.int32
        and device == key.device == value.device == ancestors.device == prefix_lens.device
        and query.stride(3) == key.stride(3) == value.stride(3) == ancestors.stride(2) == 1
        and prefix_lens.is_contiguous()
    )


def scale_or_default(op: str, scale: float | None, query: Tensor) -> float:
    """The factor of the scores."""
    if scale is None:
        return query.shape[-1] ** -0.5
    check_number(op, "scale", scale)
    if not -math.inf < scale < math.inf:
        refuse(op, "scale", "finite", scale)
    return scale


def check_heads(op: str, sizes: dict[str, Size]) -> None:
    """Query heads come in whole groups for each KV head."""
    heads, kv_heads = int(sizes["Hq"]), int(sizes["Hkv"])
    if kv_heads < 1 or heads % kv_heads != 0:
        must_be = f"[B, Hq, ...] with Hq a multiple of Hkv = {kv_heads}"
        refuse(op, "query", must_be, f"Hq = {heads}", "are heads and nodes swapped?")


def check_floats(
    op: str, argument: str, value: object, letters: str, sizes: dict[str, Size], like: Tensor
) -> Tensor:
    """A float tensor of the dtype and device of `like`, its rows contiguous."""
    tensor = check_tensor(op, argument, value, letters, like.dtype, sizes, like.device)
    check_rows_are_dense(op, argument, tensor)
    return tensor


def check_integers(
    op: str, argument: str, value: object, letters: str, sizes: dict[str, Size], like: Tensor
) -> Tensor:
    """An int32 tensor on the device of `like`, its rows contiguous."""
    tensor = check_tensor(op, argument, value, letters, torch.int32, sizes, like.device)
    check_rows_are_dense(op, argument, tensor)
    return tensor


def check_query(op: str, query: object, letters: str, sizes: dict[str, Size]) -> Tensor:
    """The first argument: of any of the float dtypes, its rows contiguous."""
    tensor = check_tensor(op, "query", query, letters, FLOATS, sizes)
    check_rows_are_dense(op, "query", tensor)
    return tensor


def check_tree_arguments(
    query: object,
    key: object,
    value: object,
    ancestors: object,
    prefix_lens: object,
    paged: bool,
) -> None:
    """Name the argument of `tree_attention` that does not fit."""
    op = "tree_attention"
    sizes: dict[str, Size] = {}
    refuse_swapped_tree(op, query, key, ancestors)
    refuse_odd_dtype(op, "query", query, {"key": key, "value": value})
    like = check_query(op, query, "B Hq T D", sizes)
    caches = "pages Hkv page_size D" if paged else "B Hkv N D"
    stored = check_tensor(op, "key", key, caches, (like.dtype, FLOAT8), sizes, like.device)
    check_rows_are_dense(op, "key", stored)
    check_floats(op, "value", value, caches, sizes, stored)
    check_heads(op, sizes)
    words = check_tensor(op, "ancestors", ancestors, "B T W", torch.int64, sizes, like.device)
    check_rows_are_dense(op, "ancestors", words)
    if sizes["W"] < 1:
        refuse(op, "ancestors", "[B, T, W] with W >= 1", "W = 0")
    check_integers(op, "prefix_lens", prefix_lens, "B", sizes, like)


def check_key_bias(op: str, key_bias: object, query: Tensor, kv_heads: Size, slots: Size) -> Tensor:
    """`[B | 1, Hkv | 1, N]`, of the model's dtype or float32."""
    sizes: dict[str, Size] = {"N": slots}
    dtypes = tuple({query.dtype, torch.float32})
    bias = check_tensor(op, "key_bias", key_bias, "B|1 Hkv|1 N", dtypes, sizes, query.device)
    batch, heads, _ = bias.shape
    if batch not in (1, query.shape[0]) or heads not in (1, kv_heads):
        wanted = f"[B | 1, Hkv | 1, N] = [{query.shape[0]} | 1, {kv_heads} | 1, {slots}]"
        refuse(op, "key_bias", wanted, list(bias.shape))
    check_rows_are_dense(op, "key_bias", bias)
    return bias


def check_scale(op: str, argument: str, scale: object, batch: Size, cache: Tensor) -> Tensor:
    """`[B | 1, Hkv | 1]` float32, of a float8 cache `[..., Hkv, ..., D]`."""
    if cache.dtype != FLOAT8:
        stored = str(cache.dtype).removeprefix("torch.")
        hint = "a scale belongs to caches in float8_e4m3fn"
        refuse(op, argument, f"left out beside a cache in {stored}", "a scale", hint)
    given = check_tensor(op, argument, scale, "B|1 Hkv|1", torch.float32, None, cache.device)
    heads = cache.shape[1]
    if given.shape[0] not in (1, batch) or given.shape[1] not in (1, heads):
        wanted = f"[B | 1, Hkv | 1] = [{batch} | 1, {heads} | 1]"
        refuse(op, argument, wanted, list(given.shape))
    check_rows_are_dense(op, argument, given)
    return given


def check_window(op: str, window: object) -> None:
    """A number of positions."""
    check_integer(op, "window", window)
    if window < 0:  # type: ignore[operator]
        refuse(op, "window", "at least 0", window)


def _anchoring_fits(
    query: Tensor, capacity: Size, anchors: AnchorIndex, window: int, depth: Tensor
) -> bool:
    """Whether `check_anchoring` would find nothing."""
    slots, count, rank = anchors
    batch, rows = query.shape[0], query.shape[2]
    return (
        slots.dim() == 2
        and slots.shape[0] == batch
        and count.shape == (batch,)
        and rank.shape == (batch, capacity + 1)
        and depth.shape == (batch, rows)
        and window >= 0
        and slots.dtype == count.dtype == rank.dtype == depth.dtype == torch.int32
        and slots.device == count.device == rank.device == depth.device == query.device
        and slots.stride(1) == rank.stride(1) == depth.stride(1) == 1
        and count.is_contiguous()
    )


def check_anchoring(
    query: Tensor, slots: Size, anchors: object, window: int | None, depth: object
) -> tuple[Tensor, Tensor, Tensor]:
    """`anchors`, `window` and `depth` come together and fit a cache of N = `slots`; returns
    the anchors."""
    op = "tree_attention"
    if (
        isinstance(anchors, AnchorIndex)
        and isinstance(depth, Tensor)
        and type(window) is int
        and all(isinstance(each, Tensor) for each in anchors)
        and _anchoring_fits(query, slots, anchors, window, depth)
    ):
        return anchors
    if anchors is None or window is None or depth is None:
        given = [
            name
            for name, value in (("anchors", anchors), ("window", window), ("depth", depth))
            if value is not None
        ]
        refuse(op, "anchors, window and depth", "given together or not at all", " and ".join(given))
    if not isinstance(anchors, AnchorIndex):
        refuse_type(op, "anchors", "an AnchorIndex", type(anchors).__name__, "see anchor_index")
    check_window(op, window)
    sizes: dict[str, Size] = {"B": query.shape[0], "T": query.shape[2], "N+1": slots + 1}
    for name, value, letters in (
        ("anchors.slots", anchors.slots, "B A"),
        ("anchors.count", anchors.count, "B"),
        ("anchors.rank", anchors.rank, "B N+1"),
        ("depth", depth, "B T"),
    ):
        check_integers(op, name, value, letters, sizes, query)
    return anchors.slots, anchors.count, anchors.rank


def check_results(query: Tensor, out: object, return_lse: bool) -> tuple[Tensor, Tensor | None]:
    """`out=` holds the result, alone or with its log-sum-exp; one asked for is made if missing."""
    op = "tree_attention"
    result, lse = out if isinstance(out, tuple) and len(out) == 2 else (out, None)
    sizes: dict[str, Size] = dict(zip(("B", "Hq", "T", "D"), query.shape, strict=True))
    result = check_floats(op, "out", result, "B Hq T D", sizes, query)
    if lse is not None:
        lse = check_tensor(op, "out[1]", lse, "B Hq T", torch.float32, sizes, query.device)
    elif return_lse:
        lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    return result, lse
