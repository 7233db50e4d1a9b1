"""The public tree ops: build a layout, choose a tree from a pool, rank logits."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.errors import (
    Size,
    check_integer,
    check_rows_are_dense,
    check_tensor,
    refuse,
)
from sparrow_kernels.ops.tree.ops import BUILD_TREE, SELECT_TREE, TOPK_LOGPROBS
from sparrow_kernels.ops.types import TreeLayout

_LOGIT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def build_tree(parent: Tensor, num_nodes: Tensor | None = None) -> TreeLayout:
    """Lay out a batch of draft trees from the parent of each node.

    Node 0 is the root, `parent[:, 0]` is -1 and every other node's parent comes before it. Nodes
    from `num_nodes` on are padding, whatever `parent` holds there; a request with `num_nodes` 0 is
    idle. Depths, ancestor bits and sibling links come back for all other ops to walk.

    Args:
        parent: `[B, T]` int32, T >= 1.
        num_nodes: `[B]` int32 in 0..T, or None for full trees.

    Returns:
        `TreeLayout`. A malformed tree counts as its root alone and has `status` = bad node + 1.

    Raises:
        ValueError: wrong shape; with value checks on also a malformed parent (else: `status`) or a
            `num_nodes` outside 0..T (else: clamped).
        TypeError: wrong dtype or device.

    Equivalent to:

    >>> parent = torch.tensor([[-1, 0, 0, 1, 1, 2]], dtype=torch.int32)
    >>> layout = build_tree(parent)
    >>> sees, depth, child, sibling = torch.eye(6, dtype=torch.bool), [0] * 6, [-1] * 6, [-1] * 6
    >>> for node in range(1, 6):
    ...     above = parent[0, node]
    ...     sees[node] |= sees[above]
    ...     depth[node] = depth[above] + 1
    >>> for node in range(5, 0, -1):
    ...     above = parent[0, node]
    ...     child[above], sibling[node] = node, child[above]
    >>> torch.equal(unpack_ancestors(layout.ancestors, 6)[0], sees)
    True
    >>> layout.depth[0].tolist() == depth
    True
    >>> layout.first_child[0].tolist() == child, layout.next_sibling[0].tolist() == sibling
    (True, True)
    """
    sizes: dict[str, Size] = {}
    check_tensor("build_tree", "parent", parent, "B T", torch.int32, sizes)
    check_rows_are_dense("build_tree", "parent", parent)
    if sizes["T"] < 1:
        refuse("build_tree", "parent", "[B, T] with T >= 1", list(parent.shape))
    if num_nodes is not None:
        check_tensor("build_tree", "num_nodes", num_nodes, "B", torch.int32, sizes, parent.device)
        check_rows_are_dense("build_tree", "num_nodes", num_nodes)
    return TreeLayout(*BUILD_TREE(parent, num_nodes))


def select_tree(scores: Tensor, parent: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Choose the best tree of `num_nodes` nodes from a pool of grown ones (the EAGLE-2 rerank).

    A pool node ranks by the minimum of the scores on its pool path, so that no child outranks its
    parent and the chosen nodes form a tree. Ties go to the lower pool index.

    Args:
        scores: `[B, P]` float32, for example cumulative log-probabilities.
        parent: `[B, P]` int32 pool index of each node's parent, below its own; -1 is the root,
            which is not in the pool.
        num_nodes: nodes of the tree with its root, 1 to P + 1.

    Returns:
        `selected` `[B, num_nodes - 1]` int32, ascending pool indices (tree node i is pool node
        `selected[:, i - 1]`), and `parent` `[B, num_nodes]` int32 for `build_tree`.

    Raises:
        ValueError: wrong shape or `num_nodes`; with value checks on also NaN scores (else: they
            rank last) or a malformed parent (else: it counts as the root).
        TypeError: wrong dtype or device.

    Source: Li et al., EAGLE-2, arXiv 2406.16858, section 4.2.

    Equivalent to:

    >>> scores = torch.tensor([[-0.2, -1.0, -0.5, -0.1, -3.0]])
    >>> pool_parent = torch.tensor([[-1, -1, 0, 1, 1]], dtype=torch.int32)
    >>> rank = scores[0].clone()
    >>> for node in range(5):
    ...     if pool_parent[0, node] >= 0:
    ...         rank[node] = min(rank[node], rank[pool_parent[0, node]])
    >>> best = rank.sort(descending=True, stable=True).indices[:3].sort().values.tolist()
    >>> selected, parent = select_tree(scores, pool_parent, num_nodes=4)
    >>> selected[0].tolist() == best
    True
    >>> tree_node = {-1: 0, best[0]: 1, best[1]: 2, best[2]: 3}
    >>> parent[0].tolist() == [-1] + [tree_node[pool_parent[0, node].item()] for node in best]
    True
    """
    sizes: dict[str, Size] = {}
    check_tensor("select_tree", "scores", scores, "B P", torch.float32, sizes)
    check_tensor("select_tree", "parent", parent, "B P", torch.int32, sizes, scores.device)
    check_rows_are_dense("select_tree", "scores", scores)
    check_rows_are_dense("select_tree", "parent", parent)
    check_integer("select_tree", "num_nodes", num_nodes)
    if not 1 <= num_nodes <= sizes["P"] + 1:
        refuse("select_tree", "num_nodes", f"in 1..P + 1 = {sizes['P'] + 1}", num_nodes)
    return SELECT_TREE(scores, parent, num_nodes)


def topk_logprobs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` likeliest tokens of each row and their log-probabilities, in one pass.

    Args:
        logits: `[..., V]` float32, float16 or bfloat16, contiguous in its last dim; -inf masks a
            token. Leading dims that do not view as rows `[R, V]` are copied.
        k: 1 to V; on a GPU the fast kernel takes up to 64.

    Returns:
        `values` `[..., k]` float32, descending and <= 0, and `ids` `[..., k]` int64. Ties go to the
        lower id.

    Raises:
        ValueError: wrong shape or `k`; with value checks on also NaN, +inf or a row of -inf (else:
            the row's values are unspecified, its ids stay in the vocabulary).
        TypeError: wrong dtype.
        NotImplementedError: k above 64 on a GPU.

    Equivalent to:

    >>> logits = torch.randn(3, 50)
    >>> values, ids = topk_logprobs(logits, 4)
    >>> expected = logits.double().log_softmax(-1).sort(descending=True, stable=True)
    >>> torch.equal(ids, expected.indices[:, :4])
    True
    >>> torch.allclose(values.double(), expected.values[:, :4])
    True
    """
    sizes: dict[str, Size] = {}
    check_tensor("topk_logprobs", "logits", logits, "... V", _LOGIT_DTYPES, sizes)
    check_rows_are_dense("topk_logprobs", "logits", logits)
    check_integer("topk_logprobs", "k", k)
    if not 1 <= k <= sizes["V"]:
        refuse("topk_logprobs", "k", f"in 1..V = {sizes['V']}", k)
    if logits.dim() == 2:
        return TOPK_LOGPROBS(logits, k)
    rows = logits.flatten(0, -2) if logits.dim() > 2 else logits[None]
    shape = (*logits.shape[:-1], k)
    values, ids = TOPK_LOGPROBS(rows, k)
    return values.view(shape), ids.view(shape)
