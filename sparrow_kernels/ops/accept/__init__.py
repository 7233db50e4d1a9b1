"""Acceptance: which drafted tokens the target keeps, and the bonus token it adds."""

from sparrow_kernels.ops.accept.api import accept_tree, accept_tree_residual, sample_tokens

__all__ = ["accept_tree", "accept_tree_residual", "sample_tokens"]
