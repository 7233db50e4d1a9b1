"""Our attention, registered with transformers under the name "sparrow".

A prefill is causal over its own keys and needs no mask. A verify or a decode step passes `nodes`
as an extra keyword of the model call, which transformers hands to every layer; the cache then
returns whole buffers, and lengths and ancestor bits say what is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig

from sparrow_kernels.ops.attention import tree_attention

ATTENTION_NAME = "sparrow"

NO_MASK = {"full_attention": None}
"""What to pass as `attention_mask`, so that transformers builds none."""


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
    nodes: Nodes | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention signature: query `[B, Hq, T, D]` -> `[B, T, Hq, D]`, no weights."""
    if nodes is None:
        if attention_mask is not None:
            raise ValueError(
                "sparrow attention: attention_mask must be None in a prefill, got a mask"
                " (padding is not supported; set another attention implementation)"
            )
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=query.shape[2] > 1, scale=scaling, enable_gqa=True
        )
    else:
        out = tree_attention(query, key, value, nodes.ancestors, nodes.prefix_lens, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """No mask is ever built: causality and tree are known from lengths and ancestor bits."""


AttentionInterface.register(ATTENTION_NAME, _attention)
AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)


@contextmanager
def sparrow_attention(text_config: PreTrainedConfig) -> Iterator[None]:
    """Use our attention in the language model inside the block; restored however it ends."""
    before = text_config._attn_implementation
    text_config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        text_config._attn_implementation = before
