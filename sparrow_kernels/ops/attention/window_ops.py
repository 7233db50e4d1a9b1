"""Defines anchored window attention and its derivatives: schemas, fakes, backends, autograd."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops import env, native, registry
from sparrow_kernels.ops.attention import flops, window
from sparrow_kernels.ops.attention.reference import accumulation_dtype
from sparrow_kernels.ops.attention.triton import availability
from sparrow_kernels.ops.transforms import refused_later, save


def _fake_forward(
    query: Tensor, key: Tensor, value: Tensor, anchor_mask: Tensor, window: int, scale: float
) -> tuple[Tensor, Tensor]:
    lse = query.new_empty(query.shape[:3], dtype=accumulation_dtype(query.dtype))
    return query.new_empty(query.shape), lse


def _fake_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _fake_tangents(
    query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), lse.new_empty(lse.shape)


ANCHORED_WINDOW = registry.define(
    "anchored_window_attention(Tensor query, Tensor key, Tensor value, Tensor anchor_mask,"
    " SymInt window, float scale) -> (Tensor out, Tensor lse)",
    fake=_fake_forward,
)
ANCHORED_WINDOW_BACKWARD = registry.define(
    "anchored_window_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value,"
    " Tensor out, Tensor lse, Tensor anchor_mask, SymInt window, float scale,"
    " Tensor? grad_lse=None) -> (Tensor d_query, Tensor d_key, Tensor d_value)",
    fake=_fake_backward,
)
ANCHORED_WINDOW_JVP = registry.define(
    "anchored_window_attention_jvp(Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse,"
    " Tensor anchor_mask, SymInt window, float scale, Tensor d_query, Tensor d_key, Tensor d_value)"
    " -> (Tensor d_out, Tensor d_lse)",
    fake=_fake_tangents,
)
for _backend, _rule in (("reference", window.all_columns), ("torch", window.seen_columns)):
    ANCHORED_WINDOW.implement(_backend, partial(window.forward, rule=_rule))
    ANCHORED_WINDOW_BACKWARD.implement(_backend, partial(window.backward, rule=_rule))
    ANCHORED_WINDOW_JVP.implement(_backend, partial(window.tangents, rule=_rule))


def _natively(*args: Any) -> registry.Reason:
    is_double = args[0].dtype == torch.float64
    return "float32, float16 and bfloat16, not float64" if is_double else None


native.implement(ANCHORED_WINDOW, takes=_natively)
native.implement(ANCHORED_WINDOW_BACKWARD, takes=_natively)


def _triton_forward(*args: Any) -> tuple[Tensor, Tensor]:
    from sparrow_kernels.ops.attention.triton.window_forward import forward

    with torch.cuda.device_of(args[0]):  # Triton launches on the current device
        return forward(*args)


def _triton_backward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    from sparrow_kernels.ops.attention.triton.window_backward import backward

    with torch.cuda.device_of(args[0]):
        return backward(*args)


def _triton_takes(query: Tensor, *_: Any) -> registry.Reason:
    if query.shape[-1] > 256:
        return f"head dims up to 256, not {query.shape[-1]}"
    return availability.refuses(query)


for _op, _function in (
    (ANCHORED_WINDOW, _triton_forward),
    (ANCHORED_WINDOW_BACKWARD, _triton_backward),
):
    _op.implement("triton", _function, available=availability.unavailable, takes=_triton_takes)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, anchor_mask, ctx.window, ctx.scale = inputs
    ctx.backend = env.current_backend()
    save(ctx, query, key, value, anchor_mask, *output)


def _backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    query, key, value, anchor_mask, out, lse = ctx.saved_tensors
    grad = torch.zeros_like(out) if grad is None else grad
    if grad.stride(-1) != 1:
        grad = grad.contiguous()
    with env.backend(ctx.backend):  # on CUDA this is another thread, which has its own choice
        # By the dispatcher: only it knows that gradients are batched (`is_grads_batched`).
        d_query, d_key, d_value = ANCHORED_WINDOW_BACKWARD.call(
            grad, query, key, value, out, lse, anchor_mask, ctx.window, ctx.scale, grad_lse
        )
    return d_query, d_key, d_value, None, None, None


def _jvp(
    ctx: Any, d_query: Tensor | None, d_key: Tensor | None, d_value: Tensor | None, *_: None
) -> tuple[Tensor, Tensor]:
    query, key, value, anchor_mask, out, lse = ctx.saved_tensors
    moved = [
        torch.zeros_like(x) if tangent is None else tangent
        for x, tangent in ((query, d_query), (key, d_key), (value, d_value))
    ]
    return ANCHORED_WINDOW_JVP(
        query, key, value, out, lse, anchor_mask, ctx.window, ctx.scale, *moved
    )


ANCHORED_WINDOW.count_flops(flops.window)
ANCHORED_WINDOW_BACKWARD.count_flops(flops.window_backward)
ANCHORED_WINDOW_JVP.count_flops(flops.window_jvp)
ANCHORED_WINDOW.differentiate(_save, _backward, _jvp)
for _op in (ANCHORED_WINDOW_BACKWARD, ANCHORED_WINDOW_JVP):
    _op.differentiate(*refused_later("anchored_window_attention: it is differentiable once"))
