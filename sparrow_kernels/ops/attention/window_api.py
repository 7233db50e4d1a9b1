"""The public whole-sequence attention, with autograd: what a draft is trained with."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.arguments import check_floats, check_heads, check_query
from sparrow_kernels.ops.attention.window_ops import ANCHORED_WINDOW
from sparrow_kernels.ops.errors import Size, check_tensor, refuse


def anchored_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    anchor_mask: Tensor,
    *,
    window: int,
    scale: float | None = None,
) -> Tensor:
    """Causal attention to anchors and to the last `window` positions, for a whole sequence.

    Row i sees slot j <= i iff `anchor_mask[j]` or `i - j < window`. `window=0` leaves pure text
    anchoring, `window >= S` is causal attention. A row that sees nothing yields 0. Time follows
    what is seen, memory is linear in S. Differentiable once in query, key and value.

    Args:
        query: `[B, Hq, S, D]` float32, float16, bfloat16 or float64.
        key, value: `[B, Hkv, S, D]`, Hq a multiple of Hkv.
        anchor_mask: `[B, S]` bool.
        window: positions, a row's own included.
        scale: of the scores; D ** -0.5 by default.

    Returns:
        `[B, Hq, S, D]`, contiguous, of the query's dtype.

    Raises:
        ValueError: wrong shape, negative window. TypeError: wrong dtype or device.

    Source: text anchoring as in the Sparrow paper; the block form of softmax and its gradient from
    Dao, FlashAttention-2, arXiv 2307.08691.

    Equivalent to:

    >>> query, key, value = torch.randn(3, 1, 2, 9, 8).unbind()
    >>> anchor_mask = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 1, 0]], dtype=torch.bool)
    >>> row, slot = torch.arange(9)[:, None], torch.arange(9)
    >>> mask = (slot <= row) & (anchor_mask[0] | (row - slot < 3))
    >>> expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    >>> out = anchored_window_attention(query, key, value, anchor_mask, window=3)
    >>> torch.allclose(out, expected, atol=1e-5)
    True
    """
    op = "anchored_window_attention"
    sizes: dict[str, Size] = {}
    check_query(op, query, "B Hq S D", sizes)
    check_floats(op, "key", key, "B Hkv S D", sizes, query)
    check_floats(op, "value", value, "B Hkv S D", sizes, query)
    check_heads(op, sizes)
    check_tensor(op, "anchor_mask", anchor_mask, "B S", torch.bool, sizes, query.device)
    if window < 0:
        refuse(op, "window", "at least 0", window)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return ANCHORED_WINDOW(query, key, value, anchor_mask, window, scale)[0]
