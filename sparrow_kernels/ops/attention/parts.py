"""Softmax attention of one request's packed rows to parts of its keys, from PyTorch's CPU kernels.

Packed: the G query heads of a KV head are rows of that head, `[Hkv, G * T, D]`, so that each key is
read once for all of them. Results are `(out [.., Hkv, G * T, D], lse [.., Hkv, G * T])`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.reference import softmax_parts

# Attention without a mask, and its natural log-sum-exp. It divides by the numbers of rows and of
# keys: with none of either it ends the process.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

Part = tuple[Tensor, Tensor]


def attend_all(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None = None
) -> Part:
    """Every row of query `[1, Hkv, G * T, D]` sees every key of `[1, Hkv, n, D]`, n may be 0;
    `bias`, if any, `[1, Hkv | 1, 1, n]`."""
    if key.shape[2] == 0:
        return torch.zeros_like(query), query.new_full(query.shape[:3], -torch.inf)
    return _flash(query, key, value, 0.0, False, attn_mask=bias, scale=scale)


def attend_biased(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Part:
    """Query `[Hkv, G * T, D]` to keys `[Hkv, n, D]`; `bias` `[G * T, m]`, or with Hkv in
    front, is for the last m <= n.

    All scores at once: for few keys. A row that sees nothing yields 0 and -inf.
    """
    kind = query.dtype
    if kind != bias.dtype:
        query, key, value = query.to(bias.dtype), key.to(bias.dtype), value.to(bias.dtype)
    free = key.shape[1] - bias.shape[-1]
    if free == 0:
        scores = torch.baddbmm(bias, query, key.mT, alpha=scale)
        weights, total, lse = softmax_parts(scores)
        weights = weights.div_(total)
    else:
        scores = torch.baddbmm(bias.new_zeros(()), query, key.mT, beta=0, alpha=scale)
        scores.narrow(2, free, bias.shape[-1]).add_(bias)
        weights, lse = _softmax(scores)
    return torch.bmm(weights, value).to(kind), lse.squeeze(-1)


def attend_folded(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, prefix: Part, scale: float
) -> Part:
    """As `attend_biased` with n = m, plus a part already attended to, of finite log-sum-exp.

    That part enters the softmax as one more key: its score is its log-sum-exp, its value its
    result. The sum never overflows, and rows that see none of these keys need no case.
    """
    kind = query.dtype
    prefix_out, prefix_lse = prefix
    if kind != bias.dtype:
        query, key, value = query.to(bias.dtype), key.to(bias.dtype), value.to(bias.dtype)
        prefix_out = prefix_out.to(bias.dtype)
    scores = torch.baddbmm(bias, query, key.mT, alpha=scale)
    weights, lse = _softmax(torch.cat((prefix_lse.unsqueeze(-1), scores), -1))
    out = torch.bmm(weights.narrow(2, 1, bias.shape[1]), value)
    return out.addcmul_(prefix_out, weights.narrow(2, 0, 1)).to(kind), lse.squeeze(-1)


def _softmax(scores: Tensor) -> Part:
    """Softmax over the last dim and its log-sum-exp `[..., 1]`; the first score is finite."""
    weights = torch.log_softmax(scores, -1)
    lse = scores.narrow(-1, 0, 1) - weights.narrow(-1, 0, 1)
    return weights.exp_(), lse
