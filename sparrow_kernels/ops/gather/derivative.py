"""The derivative of `gather_hidden`: rows go back to where they came from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops.gather.reference import gather_hidden
from sparrow_kernels.ops.transforms import save


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    states, index = inputs
    ctx.layers, ctx.rows = len(states), states[0].shape[1]
    save(ctx, index)


def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return [None] * ctx.layers, None
    (index,) = ctx.saved_tensors
    # One row more than there is takes the gradients of what was no row.
    row = torch.where((index >= 0) & (index < ctx.rows), index, ctx.rows).long()
    zeros = grad.new_zeros((grad.shape[0], ctx.rows + 1, grad.shape[2]))
    total = zeros.scatter_add(1, row[..., None].expand_as(grad), grad)
    return list(total[:, : ctx.rows].chunk(ctx.layers, dim=-1)), None


def jvp(ctx: Any, states: list[Tensor | None], _: None) -> Tensor:
    (index,) = ctx.saved_tensors
    zeros = torch.zeros_like(next(tangent for tangent in states if tangent is not None))
    return gather_hidden([zeros if t is None else t for t in states], index)
