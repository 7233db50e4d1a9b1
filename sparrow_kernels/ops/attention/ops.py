"""Defines the attention ops: schema, fake, value check, backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops import native, registry
from sparrow_kernels.ops.attention import checks, flops, mass, merge_derivative, reference
from sparrow_kernels.ops.attention import torch as cpu
from sparrow_kernels.ops.attention.arguments import FLOAT8
from sparrow_kernels.ops.attention.triton import availability
from sparrow_kernels.ops.pages import num_slots

_TREE_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, Tensor ancestors, Tensor prefix_lens,"
    " Tensor? prefix_starts, Tensor? anchor_slots, Tensor? anchor_count, Tensor? anchor_rank,"
    " SymInt? window, Tensor? depth, float scale, SymInt? num_splits"
)
_TREE_WITHOUT_GRAD = "call it under torch.no_grad(), or train with anchored_window_attention"

# What came later is last, and may be left out.
_LATER = (
    "Tensor? block_table=None, Tensor? key_bias=None,"
    " Tensor? key_scale=None, Tensor? value_scale=None"
)
_INPUTS = 13
"""Those of `_TREE_ARGUMENTS`; behind them out and lse, where they are given."""


def _fake_tree_attention(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:3], dtype=torch.float32)


def _fake_attention_mass(
    query: Tensor, key: Tensor, lens: Tensor, scale: float, table: Any = None, lse: Any = None
) -> Tensor:
    shape = (query.shape[0], key.shape[1], num_slots(key, table))
    return query.new_empty(shape, dtype=torch.float32)


def _fake_merge_attention(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return outs[0].new_empty(outs[0].shape), lses[0].new_empty(lses[0].shape, dtype=torch.float32)


def _fake_anchor_index(anchor_mask: Tensor, max_anchors: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, slots = anchor_mask.shape
    return (
        anchor_mask.new_empty((batch, max_anchors), dtype=torch.int32),
        anchor_mask.new_empty((batch,), dtype=torch.int32),
        anchor_mask.new_empty((batch, slots + 1), dtype=torch.int32),
    )


def _fake_nothing(*_: Any) -> None:
    return None


def _attends_natively(query: Tensor, *_: Any) -> registry.Reason:
    if query.dtype == torch.float64:
        return "it has no float64"
    return "there is nothing to attend from" if query.numel() == 0 else None


def _attends_with_torch(query: Tensor, key: Tensor, *_: Any) -> registry.Reason:
    return "PyTorch's kernels take no float8" if key.dtype == FLOAT8 else None


def _merges_natively(outs: Sequence[Tensor], _: Any) -> registry.Reason:
    if outs[0].dtype == torch.float64:
        return "it has no float64"
    is_dense = all(out.stride(3) == 1 for out in outs)
    return None if is_dense else "its rows must be contiguous"


def _apart(args: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The arguments of the form that writes: those of the other, and `out` and `lse`."""
    results = slice(_INPUTS, _INPUTS + 2)
    return (*args[: results.start], *args[results.stop :]), tuple(args[results])


def _into(function: Any) -> Any:
    """The form of a tree attention that writes to `out` and `lse`."""

    def write(*args: Any) -> None:
        inputs, (out, lse) = _apart(args)
        result, result_lse = function(*inputs)
        out.copy_(result)
        if lse is not None:
            lse.copy_(result_lse)

    return write


def _triton_tree_attention(*args: Any) -> tuple[Tensor, Tensor]:
    from sparrow_kernels.ops.attention.triton.tree_launch import tree_attention

    return tree_attention(*args)


def _triton_tree_attention_out(*args: Any) -> None:
    from sparrow_kernels.ops.attention.triton.tree_launch import tree_attention_out

    tree_attention_out(*args)


def _triton_attention_mass(*args: Any) -> Tensor:
    from sparrow_kernels.ops.attention.triton.mass_launch import attention_mass

    return attention_mass(*args)


def _triton_merge_attention(*args: Any) -> tuple[Tensor, Tensor]:
    from sparrow_kernels.ops.attention.triton.merge import merge_attention

    return merge_attention(*args)


def _triton_anchor_index(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    from sparrow_kernels.ops.attention.triton.anchors import anchor_index

    return anchor_index(*args)


def _triton_takes(query: Tensor, *_: Any) -> registry.Reason:
    if query.shape[-1] > 256:
        return f"its tiles hold head dims up to 256, not {query.shape[-1]}"
    return availability.refuses(query)


def _triton_attends(query: Tensor, key: Tensor, *_: Any) -> registry.Reason:
    reason = _triton_takes(query)
    if reason is None and key.dtype == FLOAT8:
        return availability.refuses_float8(query.device, query.dtype)
    return reason


TREE_ATTENTION = registry.define(
    f"tree_attention({_TREE_ARGUMENTS}, {_LATER}) -> (Tensor out, Tensor lse)",
    fake=_fake_tree_attention,
    check=checks.tree_attention,
    without_grad=_TREE_WITHOUT_GRAD,
)
TREE_ATTENTION_OUT = registry.define(
    f"tree_attention_out({_TREE_ARGUMENTS}, Tensor(a!) out, Tensor(b!)? lse, {_LATER}) -> ()",
    fake=_fake_nothing,
    check=lambda *args: checks.tree_attention(*_apart(args)[0]),
    without_grad=_TREE_WITHOUT_GRAD,
)
for _name, _function, _takes in (
    ("reference", reference.tree_attention, None),
    ("torch", cpu.tree_attention, _attends_with_torch),
):
    TREE_ATTENTION.implement(_name, _function, takes=_takes)
    TREE_ATTENTION_OUT.implement(_name, _into(_function), takes=_takes)
native.implement(TREE_ATTENTION, takes=_attends_natively)
native.implement(TREE_ATTENTION_OUT, takes=_attends_natively)
TREE_ATTENTION.implement(
    "triton", _triton_tree_attention, available=availability.unavailable, takes=_triton_attends
)
TREE_ATTENTION_OUT.implement(
    "triton", _triton_tree_attention_out, available=availability.unavailable, takes=_triton_attends
)

for _op in (TREE_ATTENTION, TREE_ATTENTION_OUT):
    _op.count_flops(flops.tree_attention)
ATTENTION_MASS = registry.define(
    "attention_mass(Tensor query, Tensor key, Tensor prefix_lens, float scale,"
    " Tensor? block_table=None, Tensor? lse=None) -> Tensor",
    fake=_fake_attention_mass,
    check=checks.attention_mass,
)
ATTENTION_MASS.count_flops(flops.attention_mass)
ATTENTION_MASS.implement("reference", mass.attention_mass)
native.implement(ATTENTION_MASS, takes=_attends_natively)
ATTENTION_MASS.implement(
    "triton", _triton_attention_mass, available=availability.unavailable, takes=_triton_takes
)

MERGE_ATTENTION = registry.define(
    "merge_attention(Tensor[] outs, Tensor[] lses) -> (Tensor out, Tensor lse)",
    fake=_fake_merge_attention,
)
MERGE_ATTENTION.implement("reference", reference.merge_attention)
native.implement(MERGE_ATTENTION, takes=_merges_natively)
MERGE_ATTENTION.implement(
    "triton",
    _triton_merge_attention,
    available=availability.unavailable,
    takes=lambda outs, lses: _triton_takes(outs[0]),
)
MERGE_ATTENTION.differentiate(
    merge_derivative.setup_context, merge_derivative.backward, merge_derivative.jvp
)

ANCHOR_INDEX = registry.define(
    "anchor_index(Tensor anchor_mask, SymInt max_anchors)"
    " -> (Tensor slots, Tensor count, Tensor rank)",
    fake=_fake_anchor_index,
    check=checks.anchor_index,
)
ANCHOR_INDEX.implement("reference", reference.anchor_index)
ANCHOR_INDEX.implement(
    "triton",
    _triton_anchor_index,
    available=availability.unavailable,
    takes=lambda mask, _: availability.wrong_device(mask),
)
