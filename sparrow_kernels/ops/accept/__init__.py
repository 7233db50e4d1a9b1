"""Acceptance: which drafted tokens the target keeps, and the bonus token it adds."""

from sparrow_kernels.ops.accept.api import accept_tree
from sparrow_kernels.ops.accept.residual_api import (
    accept_tree_residual,
    accept_tree_residual_logits,
)
from sparrow_kernels.ops.accept.sample_api import sample_logits, sample_tokens

__all__ = [
    "accept_tree",
    "accept_tree_residual",
    "accept_tree_residual_logits",
    "sample_logits",
    "sample_tokens",
]
