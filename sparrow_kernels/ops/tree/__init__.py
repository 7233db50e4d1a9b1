"""Trees: their layout, their choice from a pool, their masks."""

from sparrow_kernels.ops.tree.api import build_tree, select_tree, topk_logprobs
from sparrow_kernels.ops.tree.masks import dense_tree_mask, pack_ancestors, unpack_ancestors

__all__ = [
    "build_tree",
    "dense_tree_mask",
    "pack_ancestors",
    "select_tree",
    "topk_logprobs",
    "unpack_ancestors",
]
