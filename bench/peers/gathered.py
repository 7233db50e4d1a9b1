"""What anyone would write by hand for anchors and a window: gather the slots that are seen, then
PyTorch's attention under a small mask. Slots and mask are found before the clock starts.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from bench.case import Arguments, Call, Way
from bench.peers.sdpa import anchored_tree_mask


def anchored_tree_attention(prefix: int) -> Way:
    return Way("gather + sdpa", False, lambda arguments: _prepared(arguments, prefix))


def _prepared(arguments: Arguments, prefix: int) -> Call:
    query = arguments["query"]
    batch, heads, nodes, head_dim = query.shape
    kv_heads = arguments["key"].shape[1]
    group = heads // kv_heads
    mask = anchored_tree_mask(arguments, prefix)
    # Requests of a case see the same slots, so that a plain index will do.
    slots = mask.flatten(0, 1).any(0).nonzero().flatten()
    small = _padded(mask[:, :, slots].repeat(1, group, 1).unsqueeze(1))

    def call() -> Tensor:
        key, value = (arguments[name].index_select(2, slots) for name in ("key", "value"))
        packed = query.reshape(batch, kv_heads, group * nodes, head_dim)
        out = scaled_dot_product_attention(packed, key, value, attn_mask=small)
        return out.reshape(query.shape)

    return call


def _padded(mask: Tensor) -> Tensor:
    """The same mask with rows of a multiple of 16 elements, or a GPU's kernel would copy it."""
    slots = mask.shape[-1]
    return pad(mask, (0, -slots % 16))[..., :slots]
