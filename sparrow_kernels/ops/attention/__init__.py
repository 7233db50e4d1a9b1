"""Attention over a cached prefix and a draft tree, over anchors and a window, and cache appends."""

from sparrow_kernels.ops.attention.api import anchor_index, merge_attention, tree_attention
from sparrow_kernels.ops.attention.cache_api import append_cache_, rotate_append_
from sparrow_kernels.ops.attention.mass_api import attention_mass
from sparrow_kernels.ops.attention.window_api import anchored_window_attention

__all__ = [
    "anchor_index",
    "anchored_window_attention",
    "append_cache_",
    "attention_mass",
    "merge_attention",
    "rotate_append_",
    "tree_attention",
]
