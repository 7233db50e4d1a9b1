"""The derivative of `topk_logprobs`: that of log_softmax, at the ids that were kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops.transforms import save


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ids = output[1]
    ctx.mark_non_differentiable(ids)
    save(ctx, inputs[0], ids)


def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, None]:
    if grad is None:
        return None, None
    logits, ids = ctx.saved_tensors
    probs = logits.float().softmax(-1)
    kept = torch.zeros_like(probs).scatter(1, ids, grad)
    return (kept - probs * grad.sum(-1, keepdim=True)).to(logits.dtype), None


def jvp(ctx: Any, tangent: Tensor, _: None) -> tuple[Tensor, None]:
    logits, ids = ctx.saved_tensors
    tangent = tangent.float()
    mean = (logits.float().softmax(-1) * tangent).sum(-1, keepdim=True)
    return tangent.gather(1, ids) - mean, None
