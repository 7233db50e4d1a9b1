"""PyTorch's scaled dot product attention with a mask, by each of its kernels.

The G query heads of a KV head are packed as rows of it, so that no KV head is copied and each key
is read once for all of them: the best a user of it can do. Masks are made before the clock starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from bench.case import Arguments, Call, Way
from sparrow_kernels.ops.tree import unpack_ancestors

_KERNELS = {
    "cuda": {
        "sdpa, efficient": SDPBackend.EFFICIENT_ATTENTION,
        "sdpa, cudnn": SDPBackend.CUDNN_ATTENTION,
        "sdpa, math": SDPBackend.MATH,
        "sdpa, flash": SDPBackend.FLASH_ATTENTION,
    },
    "cpu": {"sdpa, flash": SDPBackend.FLASH_ATTENTION, "sdpa, math": SDPBackend.MATH},
}


def tree_attention(device: torch.device, prefix: int) -> list[Way]:
    return _ways(device, lambda arguments: tree_mask(arguments, prefix))


def anchored_tree_attention(device: torch.device, prefix: int) -> list[Way]:
    return _ways(device, lambda arguments: anchored_tree_mask(arguments, prefix))


def tree_mask(arguments: Arguments, prefix: int) -> Tensor:
    """`[B, T, prefix + T]` bool: the whole prefix, then ancestors."""
    ancestors = arguments["ancestors"]
    nodes = ancestors.shape[1]
    sees = unpack_ancestors(ancestors, nodes)
    return torch.cat((sees.new_ones(sees.shape[0], nodes, prefix), sees), -1)


def anchored_tree_mask(arguments: Arguments, prefix: int) -> Tensor:
    """`[B, T, prefix + T]` bool: anchors and window, then ancestors."""
    mask = tree_mask(arguments, prefix)
    rank = arguments["anchors"].rank
    is_anchor = (rank[:, 1:] > rank[:, :-1])[:, None, :prefix]
    slot = torch.arange(prefix, device=mask.device)
    distance = prefix + arguments["depth"].unsqueeze(-1) - slot
    mask[:, :, :prefix] = is_anchor | (distance < arguments["window"])
    return mask


def _ways(device: torch.device, mask_of: Callable[[Arguments], Tensor]) -> list[Way]:
    def prepare_with(kernel: SDPBackend) -> Callable[[Arguments], Call]:
        return lambda arguments: _packed(arguments, mask_of(arguments), kernel)

    ways = []
    for name, kernel in _KERNELS[device.type].items():
        takes_no_mask = device.type == "cuda" and kernel == SDPBackend.FLASH_ATTENTION
        reason = "it takes no mask" if takes_no_mask else None
        ways.append(Way(name, False, prepare_with(kernel), reason))
    return ways


def _packed(arguments: Arguments, mask: Tensor, kernel: SDPBackend) -> Call:
    query = arguments["query"]
    batch, heads, nodes, head_dim = query.shape
    kv_heads, slots = arguments["key"].shape[1], mask.shape[-1]
    group = heads // kv_heads
    key, value = (arguments[name][:, :, :slots] for name in ("key", "value"))
    packed_mask = _aligned(_ready(mask.repeat(1, group, 1).unsqueeze(1), query.dtype))

    def call() -> Tensor:
        packed = query.reshape(batch, kv_heads, group * nodes, head_dim)
        with sdpa_kernel(kernel):
            out = scaled_dot_product_attention(packed, key, value, attn_mask=packed_mask)
        return out.reshape(query.shape)

    return call


def _ready(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """On a GPU as the scores to add that the kernels take: they would make it each call."""
    if mask.device.type != "cuda":
        return mask
    added = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return added.masked_fill_(~mask, -torch.inf)


def _aligned(mask: Tensor) -> Tensor:
    """The same mask with rows of a multiple of 16 elements, or a kernel would copy it each call."""
    *outer, slots = mask.shape
    wide = mask.new_zeros(*outer, -(-slots // 16) * 16)
    wide[..., :slots] = mask
    return wide[..., :slots]


def anchored_window(
    device: torch.device, differentiated: Callable[[Arguments, Tensor], Any]
) -> list[Way]:
    """With a dense S x S mask; each query head on its own, since the mask is the same for all."""

    def prepare_with(kernel: SDPBackend) -> Callable[[Arguments], Call]:
        def prepare(arguments: Arguments) -> Call:
            anchors, window = arguments["anchor_mask"], arguments["window"]
            length = anchors.shape[1]
            row = torch.arange(length, device=anchors.device).unsqueeze(1)
            slot = torch.arange(length, device=anchors.device)
            mask = (slot <= row) & (anchors.unsqueeze(1) | (row - slot < window))
            query, key, value = (arguments[name] for name in ("query", "key", "value"))
            mask = _ready(mask.unsqueeze(1), query.dtype)
            # This kernel takes as many KV heads as query heads only.
            group = query.shape[1] // key.shape[1]
            copies = group if kernel == SDPBackend.EFFICIENT_ATTENTION else 1

            def call() -> Any:
                keys, values = key, value
                if copies > 1:
                    keys, values = (
                        each.unsqueeze(2).expand(-1, -1, copies, -1, -1).flatten(1, 2)
                        for each in (key, value)
                    )
                with sdpa_kernel(kernel):
                    out = scaled_dot_product_attention(
                        query, keys, values, attn_mask=mask, enable_gqa=copies == 1
                    )
                return differentiated(arguments, out)

            return call

        return prepare

    return [
        Way(name, False, prepare_with(kernel))
        for name, kernel in _KERNELS[device.type].items()
        if kernel != SDPBackend.FLASH_ATTENTION or device.type == "cpu"
    ]


def merge_attention() -> list[Way]:
    def merged(arguments: Arguments) -> tuple[Tensor, Tensor]:
        lses = torch.stack(list(arguments["lses"]))
        share = lses.softmax(0).unsqueeze(-1)
        outs = torch.stack(list(arguments["outs"]))
        return (outs * share).sum(0).to(outs.dtype), lses.logsumexp(0)

    return [Way("torch", False, lambda arguments: lambda: merged(arguments))]
