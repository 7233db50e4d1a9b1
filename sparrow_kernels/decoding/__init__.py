"""The decoding loop: draft, verify, accept, commit, over any target and draft."""

from sparrow_kernels.decoding.growth import grow_tree
from sparrow_kernels.decoding.loop import (
    Committed,
    commit_residual_step,
    commit_step,
    next_root,
    verify_step,
)
from sparrow_kernels.decoding.protocols import Draft, Target, Tree, Verification
from sparrow_kernels.decoding.tree_config import TreeConfig

__all__ = [
    "Committed",
    "Draft",
    "Target",
    "Tree",
    "TreeConfig",
    "Verification",
    "commit_residual_step",
    "commit_step",
    "grow_tree",
    "next_root",
    "verify_step",
]
