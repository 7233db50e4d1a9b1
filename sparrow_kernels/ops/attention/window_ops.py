"""Defines anchored window attention and its backward: schemas, fakes, backends, autograd."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops import env, native, registry
from sparrow_kernels.ops.attention import window
from sparrow_kernels.ops.attention.reference import accumulation_dtype
from sparrow_kernels.ops.attention.triton import availability


def _fake_forward(
    query: Tensor, key: Tensor, value: Tensor, anchor_mask: Tensor, window: int, scale: float
) -> tuple[Tensor, Tensor]:
    lse = query.new_empty(query.shape[:3], dtype=accumulation_dtype(query.dtype))
    return query.new_empty(query.shape), lse


def _fake_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


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
for _backend, _rule in (("reference", window.all_columns), ("torch", window.seen_columns)):
    ANCHORED_WINDOW.implement(_backend, partial(window.forward, rule=_rule))
    ANCHORED_WINDOW_BACKWARD.implement(_backend, partial(window.backward, rule=_rule))


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
    # Mostly nobody uses lse: None then, which costs nothing, and no zeros.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, anchor_mask, *output)


def _differentiate(
    ctx: Any, grad: Tensor | None, grad_lse: Tensor | None
) -> tuple[Tensor | None, ...]:
    query, key, value, anchor_mask, out, lse = ctx.saved_tensors
    grad = torch.zeros_like(out) if grad is None else grad
    if grad.stride(-1) != 1:
        grad = grad.contiguous()
    with env.backend(ctx.backend):  # on CUDA this is another thread, which has its own choice
        d_query, d_key, d_value = ANCHORED_WINDOW_BACKWARD(
            grad, query, key, value, out, lse, anchor_mask, ctx.window, ctx.scale, grad_lse
        )
    return d_query, d_key, d_value, None, None, None


torch.library.register_autograd(
    "sparrow::anchored_window_attention",
    _differentiate,
    setup_context=_save,
    lib=registry.LIBRARY,
)
