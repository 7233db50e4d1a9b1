"""Gathering hidden rows, and committing an accepted path to caches."""

from sparrow_kernels.ops.gather.api import (
    commit_path_,
    commit_tree_,
    compact_cache_,
    gather_hidden,
)

__all__ = ["commit_path_", "commit_tree_", "compact_cache_", "gather_hidden"]
