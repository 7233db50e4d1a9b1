"""Gathering hidden rows, and committing an accepted path to caches."""

from sparrow_kernels.ops.gather.api import (
    commit_path_,
    commit_tree_,
    compact_cache_,
    gather_hidden,
)
from sparrow_kernels.ops.gather.bound import bind_caches

__all__ = ["bind_caches", "commit_path_", "commit_tree_", "compact_cache_", "gather_hidden"]
