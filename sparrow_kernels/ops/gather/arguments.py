"""Shape and dtype checks of the layer lists: a list counts as one tensor seen L times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops import env, memory
from sparrow_kernels.ops.accept.arguments import check_row
from sparrow_kernels.ops.errors import Size, check_rows_are_dense, check_tensor, refuse, refuse_type
from sparrow_kernels.ops.pages import check_block_table
from sparrow_kernels.ops.registry import Op, nobody_watches
from sparrow_kernels.ops.types import Acceptance

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_STORED = (*_DTYPES, torch.float8_e4m3fn)  # rows of a cache move as bytes, whatever scales them
_EVERY_NODE = 2**31 - 1  # rows enough for any path: nodes are int32


def check_states(
    op: str, states: Sequence[Tensor], letters: str, sizes: dict[str, Size], device: torch.device
) -> list[Tensor]:
    """Check hidden states: every layer has one shape and dtype, each with strides of its own.

    None at all mean, to a commit, that nobody needs them: one layer of width 0.
    """
    if op != "gather_hidden" and isinstance(states, (list, tuple)) and len(states) == 0:
        sizes.setdefault("T", _EVERY_NODE)
        sizes["H"] = 0
        return [torch.empty((sizes["B"], sizes["T"], 0), device=device)]
    layers = _as_list(op, "states", states, each_dims=3)
    check_tensor(op, "states[0]", layers[0], letters, _DTYPES, sizes, device)
    _check_like(op, "states", layers, layers[0], strides_too=False)
    for place, layer in enumerate(layers):
        if layer.stride(-1) != 1:
            check_rows_are_dense(op, f"states[{place}]", layer)
    return layers


def check_caches(
    op: str,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    sizes: dict[str, Size],
    device: torch.device,
    block_table: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Check caches: keys and values of every layer share shape, strides and dtype."""
    key_layers = _as_list(op, "keys", keys, each_dims=4)
    value_layers = _as_list(op, "values", values, each_dims=4)
    if len(key_layers) != len(value_layers):
        refuse(op, "values", f"{len(key_layers)} layers, as keys", len(value_layers))
    letters = "B Hkv N D" if block_table is None else "num_pages Hkv page_size D"
    first = check_tensor(op, "keys[0]", key_layers[0], letters, _STORED, sizes, device)
    check_rows_are_dense(op, "keys[0]", first)
    _check_like(op, "keys", key_layers, first, strides_too=True)
    _check_like(op, "values", value_layers, first, strides_too=True)
    if block_table is not None:
        check_block_table(op, block_table, sizes["B"], first)
    return key_layers, value_layers


def check_prefix_lens(
    op: str,
    prefix_lens: Tensor,
    layers: int,
    sizes: dict[str, Size],
    device: torch.device,
    *,
    advanced: bool,
) -> None:
    """`[B]` int32 or, a row for each layer, `[L, B]`; rows that are `advanced` do not overlap."""
    per_layer = isinstance(prefix_lens, Tensor) and prefix_lens.dim() == 2
    sizes["L"] = layers
    letters = "L B" if per_layer else "B"
    check_row(op, "prefix_lens", prefix_lens, letters, torch.int32, sizes, device)
    if advanced and per_layer and layers > 1 and prefix_lens.stride(0) < prefix_lens.shape[1]:
        must_be = "of a row of its own for each layer"
        refuse(op, "prefix_lens", must_be, f"strides {list(prefix_lens.stride())}")


def check_out(
    op: str,
    out: tuple[Acceptance, Tensor],
    max_path: int,
    num_states: int,
    state: Tensor,
    sizes: dict[str, Size],
) -> None:
    """`out` of `commit_tree_`: an acceptance, which is contiguous, and hidden rows."""
    if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[0], Acceptance)):
        refuse_type(op, "out", "an Acceptance and a tensor", type(out).__name__)
    accepted, hidden = out
    sizes["S"], sizes["L*H"] = max_path, num_states * sizes["H"]
    for name, tensor, letters, dtype in (
        ("out[0].path", accepted.path, "B S", torch.int32),
        ("out[0].accept_length", accepted.accept_length, "B", torch.int32),
        ("out[0].tokens", accepted.tokens, "B S", torch.int64),
    ):
        if not check_row(op, name, tensor, letters, dtype, sizes, state.device).is_contiguous():
            refuse(op, name, "contiguous", f"strides {list(tensor.stride())}")
    check_row(op, "out[1]", hidden, "B S L*H", state.dtype, sizes, state.device)


def check_apart(op: Op, out: tuple[Acceptance, Tensor], args: Sequence[Any]) -> None:
    """Results that are written to share memory with nothing, as far as values are checked."""
    if not nobody_watches((args[0], out)) or not env.are_checked(args[0].device.type):
        return
    names = ("out[0].path", "out[0].accept_length", "out[0].tokens", "out[1]")
    given = (*args, *out[0], out[1])
    written = (*op.written, *range(len(args), len(given)))
    memory.check(op.name, (*op.argument_names, *names), given, written)


def _as_list(op: str, argument: str, layers: Sequence[Tensor], *, each_dims: int) -> list[Tensor]:
    if not isinstance(layers, (list, tuple)):
        is_one = isinstance(layers, Tensor) and layers.dim() == each_dims
        hint = f"pass list({argument}), layers first" if isinstance(layers, Iterable) else ""
        hint = f"pass [{argument}]" if is_one else hint
        refuse_type(op, argument, "a sequence of tensors, one a layer", type(layers).__name__, hint)
    if len(layers) == 0:
        refuse(op, argument, "at least one layer", "none")
    return list(layers)


def _check_like(
    op: str, argument: str, layers: list[Tensor], first: Tensor, *, strides_too: bool
) -> None:
    # A step passes 2 L caches: names and messages are made for the one that is refused only.
    shape, strides, dtype, device = first.shape, first.stride(), first.dtype, first.device
    for place, layer in enumerate(layers):
        if not (
            isinstance(layer, Tensor)
            and layer.dtype == dtype
            and layer.device == device
            and layer.shape == shape
            and (not strides_too or layer.stride() == strides)
        ):
            _refuse_unlike(op, f"{argument}[{place}]", layer, first, strides_too=strides_too)


def _refuse_unlike(op: str, name: str, layer: Tensor, first: Tensor, *, strides_too: bool) -> None:
    if not isinstance(layer, Tensor):
        refuse_type(op, name, "a tensor", type(layer).__name__)
    if layer.dtype != first.dtype or layer.device != first.device:
        must_be = f"{first.dtype} on {first.device}, as the first layer"
        refuse_type(op, name, must_be, f"{layer.dtype} on {layer.device}")
    if layer.shape != first.shape:
        refuse(op, name, f"{list(first.shape)}, as the first layer", list(layer.shape))
    # The stride of a dim of size 1 leads nowhere.
    leads = [dim for dim, size in enumerate(first.shape) if size > 1]
    if strides_too and any(layer.stride(dim) != first.stride(dim) for dim in leads):
        must_be = f"of strides {list(first.stride())}, as the first layer"
        hint = "layers share shape, strides and dtype"
        refuse(op, name, must_be, list(layer.stride()), hint)
