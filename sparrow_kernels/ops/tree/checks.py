"""What the tree ops refuse when values are checked."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.values import refuse_first


def build_tree(parent: Tensor, num_nodes: Tensor | None) -> None:
    """`num_nodes` is in 0..T, the root's parent is -1, any other node's an earlier node."""
    size = parent.shape[1]
    node = torch.arange(size, device=parent.device)
    bad = (parent >= node) | (parent < (node > 0).int() - 1)
    if num_nodes is not None:
        refuse_first(
            "build_tree",
            "num_nodes",
            f"in 0..T = {size}",
            num_nodes,
            (num_nodes < 0) | (num_nodes > size),
        )
        bad &= node < num_nodes[:, None]
    must_be = "-1 at the root and an earlier node elsewhere"
    refuse_first("build_tree", "parent", must_be, parent, bad)


def select_tree(scores: Tensor, parent: Tensor, num_nodes: int) -> None:
    """Scores are numbers, pool parents -1 or earlier pool nodes."""
    node = torch.arange(parent.shape[1], device=parent.device)
    must_be = "-1 (the root) or an earlier pool node"
    refuse_first("select_tree", "parent", must_be, parent, (parent < -1) | (parent >= node))
    refuse_first("select_tree", "scores", "numbers", scores, scores.isnan())


def topk_logprobs(logits: Tensor, k: int) -> None:
    """Each row has a finite maximum: its NaN, its +inf or its lack of any mass shows there."""
    best = logits.amax(-1)
    must_be = "without NaN and +inf, and finite somewhere in each row"
    if not bool(best.isfinite().all()):
        row = int((~best.isfinite()).nonzero()[0])
        bad = logits.isnan() | logits.isposinf() | (best == -torch.inf)[:, None]
        bad[:row] = False
        refuse_first("topk_logprobs", "logits", must_be, logits, bad)
