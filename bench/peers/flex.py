"""PyTorch's FlexAttention: a mask by a function, skipped in blocks of 128, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from bench.case import Arguments, Call, Way
from bench.peers.sdpa import anchored_tree_mask, tree_mask

NAME = "flex_attention"


def tree_attention(device: torch.device, prefix: int) -> Way:
    return _way(lambda arguments: tree_mask(arguments, prefix))


def anchored_tree_attention(device: torch.device, prefix: int) -> Way:
    return _way(lambda arguments: anchored_tree_mask(arguments, prefix))


def _way(mask_of: Callable[[Arguments], Tensor]) -> Way:
    def prepare(arguments: Arguments) -> Call:
        mask = mask_of(arguments)
        batch, nodes, slots = mask.shape
        query = arguments["query"]
        key, value = (arguments[name][:, :, :slots] for name in ("key", "value"))

        def sees(b: Tensor, h: Tensor, row: Tensor, slot: Tensor) -> Tensor:
            return mask[b, row, slot]

        blocks = create_block_mask(sees, batch, None, nodes, slots, device=query.device)
        attend = _compiled()
        return lambda: attend(query, key, value, block_mask=blocks, enable_gqa=True)

    return Way(NAME, False, prepare, compiles=True)


def anchored_window(
    device: torch.device, differentiated: Callable[[Arguments, Tensor], Any]
) -> Way:
    def prepare(arguments: Arguments) -> Call:
        anchors, window = arguments["anchor_mask"], arguments["window"]
        batch, length = anchors.shape

        def sees(b: Tensor, h: Tensor, row: Tensor, slot: Tensor) -> Tensor:
            return (slot <= row) & (anchors[b, slot] | (row - slot < window))

        blocks = create_block_mask(sees, batch, None, length, length, device=anchors.device)
        query, key, value = (arguments[name] for name in ("query", "key", "value"))
        attend = _compiled()

        def call() -> Any:
            out = attend(query, key, value, block_mask=blocks, enable_gqa=True)
            return differentiated(arguments, out)

        return call

    return Way(NAME, False, prepare, compiles=True)


def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)
