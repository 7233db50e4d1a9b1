"""Our attention, registered with transformers under a name that only private views ask for.

A prompt's first rows are causal over their own keys and need no mask. Later ones, and every verify,
come with `nodes`, an extra keyword of the model call which transformers hands to every layer; the
cache then returns whole buffers, and lengths and ancestor bits say what is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from sparrow_kernels.drafting.requirements import EVAL
from sparrow_kernels.models.bridge.last_layer import ReadRows
from sparrow_kernels.models.bridge.names import installed
from sparrow_kernels.ops.attention import tree_attention

ATTENTION_NAME = "sparrow"
_CHANGE_SCORES = ("softcap", "sliding_window")
"""Numbers that layers hand to their attention, and that change what it computes."""
_NO_SCORES = ("position_ids",)
"""Tensors that they hand on, and that do not."""
_MARK = "_sparrow_attended"  # on modules of a private view, gone with it


class Nodes(NamedTuple):
    """Which rows of a step see what."""

    ancestors: Tensor
    """`[B, T, W]` int64 ancestor words over tree slots."""
    prefix_lens: Tensor
    """`[B]` int32 committed slots."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    nodes: Nodes | EllipsisType | None = ...,
    read: ReadRows | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention signature: query `[B, Hq, T, D]` -> `[B, T, Hq, D]`, no weights.

    `nodes` and `read` are ours: any keyword of a call of the language model arrives here. Each call
    has `nodes`, if only None, so that layers which keep keywords to themselves are known at once.
    """
    if isinstance(nodes, EllipsisType):
        raise NotImplementedError(
            "target must hand the keywords of a call on to the attention of its layers, got none in"
            f" {type(module).__name__} (see docs/adding-a-model.md for what a target needs;"
            f" {installed()})"
        )
    if query.dtype != value.dtype:
        # Autocast leaves a rotated query in float32 beside values that a product has rounded.
        query, key = query.to(value.dtype), key.to(value.dtype)
    if not torch.compiler.is_compiling():
        module.__dict__[_MARK] = True
    if others.get("dropout"):
        raise ValueError(
            f"target must be without dropout, got {others['dropout']} in {type(module).__name__}"
            f" ({EVAL})"
        )
    if nodes is None:
        _refuse_other_attention(module, attention_mask, others)
        if attention_mask is not None or key.shape[2] != query.shape[2]:
            raise RuntimeError(
                "sparrow attention: a prefill must come without a mask and attend to its own rows,"
                f" got {query.shape[2]} queries of {key.shape[2]} keys"
                f"{'' if attention_mask is None else ' and a mask'} ({installed()})"
            )
    if read is not None and getattr(module, "layer_idx", None) == read.layer:
        rows = _of_rows(query[:, :, read.rows], key, value, scaling, nodes, read.rows)
        out = torch.zeros_like(query).index_copy_(2, read.rows, rows)
    elif nodes is None:
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=query.shape[2] > 1, scale=scaling, enable_gqa=True
        )
    else:
        out = tree_attention(query, key, value, nodes.ancestors, nodes.prefix_lens, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def _of_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    nodes: Nodes | None,
    rows: Tensor,
) -> Tensor:
    """What some rows of a forward see, `[1, Hq, rows, D]`."""
    if nodes is not None:
        ancestors = nodes.ancestors[:, rows].contiguous()
        return tree_attention(query, key, value, ancestors, nodes.prefix_lens, scale=scaling)
    seen = torch.arange(key.shape[2], device=key.device) <= rows[:, None]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=scaling, enable_gqa=True
    )


def _refuse_other_attention(module: nn.Module, mask: Any, keywords: dict[str, Any]) -> None:
    """Raise `NotImplementedError` where a layer wants more than causal softmax attention."""
    asked = [name for name, value in keywords.items() if isinstance(value, Tensor)]
    asked = [name for name in asked if name not in _NO_SCORES]
    asked += [name for name in _CHANGE_SCORES if keywords.get(name) is not None]
    if isinstance(mask, _OtherMask):
        asked.append("a mask that is not causal")
    if not getattr(module, "is_causal", True):
        asked.append("is_causal=False")
    if asked:
        raise NotImplementedError(
            f"target must attend with causal softmax alone, got {', '.join(asked)} from"
            f" {type(module).__name__} (see docs/adding-a-model.md for what a target needs)"
        )


class _OtherMask:
    """Stands for a mask that is not causal. Models make them also where no layer uses them."""


def _no_mask(
    *_: Any, mask_function: Callable[..., Any] = causal_mask_function, **__: Any
) -> _OtherMask | None:
    """No mask is ever built: causality and tree are known from lengths and ancestor bits."""
    return None if mask_function is causal_mask_function else _OtherMask()


def check_attended(language_model: nn.Module, layers: int) -> None:
    """Raise `RuntimeError` unless a prefill of a private view has come here from every layer.

    A step of a layer that attends in another way would read slots that hold nothing.
    """
    attended = sum(_MARK in module.__dict__ for module in language_model.modules())
    if attended != layers:
        raise RuntimeError(
            f"the decoder's attention must run in every layer of a prefill, and ran in {attended}"
            f" of {layers} ({installed()})"
        )


AttentionInterface.register(ATTENTION_NAME, _attention)
AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)
