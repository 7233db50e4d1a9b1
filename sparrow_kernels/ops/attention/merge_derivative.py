"""The derivative of `merge_attention`, which also is that of a softmax over the parts.

out = sum_k share_k out_k,   lse = log sum_k exp(lse_k),   share_k = exp(lse_k - lse)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.reference import accumulation_dtype
from sparrow_kernels.ops.transforms import save


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    outs, lses = inputs
    ctx.parts = len(outs)
    save(ctx, *outs, *lses, *output)


def _shares(ctx: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Of each part: its share `[B, Hq, T, 1]`, and how far its result lies from the whole's.

    A part without mass is not read: its result may be NaN.
    """
    *saved, out, lse = ctx.saved_tensors
    outs, lses = saved[: ctx.parts], saved[ctx.parts :]
    dtype = accumulation_dtype(out.dtype)
    finite = lse.clamp(min=torch.finfo(lse.dtype).min)
    shares = [(part - finite).exp().unsqueeze(-1).to(dtype) for part in lses]
    whole = out.to(dtype)
    apart = [
        torch.where(share > 0, part.to(dtype) - whole, 0.0)
        for part, share in zip(outs, shares, strict=True)
    ]
    return shares, apart


def backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    shares, apart = _shares(ctx)
    d_outs: list[Tensor | None] = [None] * ctx.parts
    d_lses: list[Tensor | None] = [None] * ctx.parts
    for k, (share, distance) in enumerate(zip(shares, apart, strict=True)):
        reached = share.new_zeros(()) if grad_lse is None else grad_lse.unsqueeze(-1)
        if grad is not None:
            d_outs[k] = (share * grad).to(grad.dtype)
            reached = reached + (grad.to(share.dtype) * distance).sum(-1, keepdim=True)
        d_lses[k] = (share * reached).squeeze(-1).float()
    return d_outs, d_lses


def jvp(ctx: Any, outs: list[Tensor | None], lses: list[Tensor | None]) -> tuple[Tensor, Tensor]:
    shares, apart = _shares(ctx)
    out, lse = ctx.saved_tensors[-2:]
    d_out, d_lse = torch.zeros_like(apart[0]), torch.zeros_like(shares[0])
    for share, distance, moved, moved_lse in zip(shares, apart, outs, lses, strict=True):
        if moved is not None:
            d_out = d_out + share * torch.where(share > 0, moved, 0.0)
        if moved_lse is not None:
            weighted = share * moved_lse.unsqueeze(-1)
            d_out, d_lse = d_out + weighted * distance, d_lse + weighted
    return d_out.to(out.dtype), d_lse.squeeze(-1).to(lse.dtype)
