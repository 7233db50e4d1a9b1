"""The public whole-sequence attention, with autograd: what a draft is trained with."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.arguments import (
    check_floats,
    check_heads,
    check_query,
    check_window,
    scale_or_default,
)
from sparrow_kernels.ops.attention.autocast import cast_as_sdpa
from sparrow_kernels.ops.attention.hints import refuse_odd_dtype, refuse_swapped_sequence
from sparrow_kernels.ops.attention.window_ops import ANCHORED_WINDOW
from sparrow_kernels.ops.errors import Size, check_tensor, refuse
from sparrow_kernels.ops.types import Attended


@overload
def anchored_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    anchor_mask: Tensor,
    *,
    window: int,
    scale: float | None = None,
    return_lse: Literal[False] = False,
) -> Tensor: ...


@overload
def anchored_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    anchor_mask: Tensor,
    *,
    window: int,
    scale: float | None = None,
    return_lse: Literal[True],
) -> Attended: ...


def anchored_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    anchor_mask: Tensor,
    *,
    window: int,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | Attended:
    """Causal attention to anchors and to the last `window` positions, for a whole sequence.

    The query may be of the last R positions alone: its row i is position p = S - R + i, and sees
    slot j <= p iff `anchor_mask[j]` or `p - j < window`. `window=0` leaves pure text anchoring,
    `window >= S` is causal attention. A row that sees nothing yields 0, lse -inf and gradients 0.
    Time follows what is seen, memory is linear in S. Differentiable once in query, key and value,
    through the output and through lse, in reverse and in forward mode (on a GPU that one is the
    reference's). Under autocast the three are cast as for `scaled_dot_product_attention`.

    Args:
        query: `[B, Hq, R, D]` float32, float16, bfloat16 or float64, R at most S.
        key, value: `[B, Hkv, S, D]`, Hq a multiple of Hkv.
        anchor_mask: `[B, S]` bool.
        window: positions, a row's own included.
        scale: of the scores; D ** -0.5 by default.
        return_lse: also return the log-sum-exp of each row's scores, with which parts over
            disjoint keys are merged.

    Returns:
        `[B, Hq, R, D]`, contiguous, of the query's dtype; with `return_lse` also lse
        `[B, Hq, R]`, natural log, float32 (float64 for float64 inputs).

    Raises:
        ValueError: wrong shape, more query rows than keys, negative window.
        TypeError: wrong dtype or device.

    Source: text anchoring as in the Sparrow paper; the block form of softmax and its gradient from
    Dao, FlashAttention-2, arXiv 2307.08691.

    Equivalent to:

    >>> query, key, value = torch.randn(3, 1, 2, 9, 8).unbind()
    >>> query = query[:, :, -5:]  # the last 5 positions
    >>> anchor_mask = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 1, 0]], dtype=torch.bool)
    >>> row, slot = torch.arange(4, 9)[:, None], torch.arange(9)
    >>> mask = (slot <= row) & (anchor_mask[0] | (row - slot < 3))
    >>> expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    >>> scores = (query @ key.mT * 8**-0.5).masked_fill(~mask, -torch.inf)
    >>> out, lse = anchored_window_attention(
    ...     query, key, value, anchor_mask, window=3, return_lse=True
    ... )
    >>> torch.allclose(out, expected, atol=1e-5), torch.allclose(lse, scores.logsumexp(-1))
    (True, True)
    """
    op = "anchored_window_attention"
    query, key, value = cast_as_sdpa(query, key, value)
    sizes: dict[str, Size] = {}
    refuse_odd_dtype(op, "query", query, {"key": key, "value": value})
    check_query(op, query, "B Hq R D", sizes)
    check_floats(op, "key", key, "B Hkv S D", sizes, query)
    check_floats(op, "value", value, "B Hkv S D", sizes, query)
    if isinstance(anchor_mask, Tensor) and anchor_mask.shape[-1:] != (sizes["S"],):
        refuse_swapped_sequence(op, key, anchor_mask)
    check_heads(op, sizes)
    if sizes["R"] > sizes["S"]:
        refuse(op, "query", f"of at most S = {sizes['S']} rows", f"R = {sizes['R']}")
    check_tensor(op, "anchor_mask", anchor_mask, "B S", torch.bool, sizes, query.device)
    check_window(op, window)
    scale = scale_or_default(op, scale, query)
    out, lse = ANCHORED_WINDOW(query, key, value, anchor_mask, window, scale)
    return (out, lse) if return_lse else out
