"""The tree ops in plain Python and PyTorch: their definition.

A node comes after its parent, so one pass in node order knows everything about the parent when it
meets a child.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WORD = 64


def build_tree(
    parent: Tensor, num_nodes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Lay out each request's tree: parent, depth, ancestors, first_child, next_sibling, status."""
    batch, size = parent.shape
    counts = [size] * batch if num_nodes is None else num_nodes.clamp(0, size).tolist()
    trees = [
        _lay_out(row[:count], size) for row, count in zip(parent.tolist(), counts, strict=True)
    ]

    def field(index: int, dtype: torch.dtype, *shape: int) -> Tensor:
        rows = [tree[index] for tree in trees]
        return torch.tensor(rows, dtype=dtype, device=parent.device).reshape(batch, *shape)

    words = math.ceil(size / WORD)
    return (
        field(0, torch.int32, size),
        field(1, torch.int32, size),
        field(2, torch.int64, size, words),
        field(3, torch.int32, size),
        field(4, torch.int32, size),
        field(5, torch.int32),
    )


def _lay_out(parent: Sequence[int], size: int) -> tuple:
    status = _first_bad_node(parent) + 1
    nodes = list(parent) if status == 0 else [-1]
    padding = [-1] * (size - len(nodes))
    depth: list[int] = []
    bits: list[int] = []  # one integer of `size` bits a node
    for node, above in enumerate(nodes):
        depth.append(0 if node == 0 else depth[above] + 1)
        bits.append((0 if node == 0 else bits[above]) | 1 << node)
    first_child = [-1] * size
    next_sibling = [-1] * size
    for node in range(len(nodes) - 1, 0, -1):  # downwards, so that the lowest child is linked last
        next_sibling[node] = first_child[nodes[node]]
        first_child[nodes[node]] = node
    ancestors = [_words(row, size) for row in bits + [0] * len(padding)]
    return nodes + padding, depth + padding, ancestors, first_child, next_sibling, status


def _first_bad_node(parent: Sequence[int]) -> int:
    for node, above in enumerate(parent):
        if above != -1 if node == 0 else not 0 <= above < node:
            return node
    return -1


def _words(bits: int, size: int) -> list[int]:
    """Cut an integer of `size` bits into 64-bit patterns, each spelled as a signed integer."""
    words = [(bits >> low) % (1 << WORD) for low in range(0, size, WORD)]
    return [word - (1 << WORD) if word >> (WORD - 1) else word for word in words]


def select_tree(scores: Tensor, parent: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Keep the best `num_nodes - 1` of a pool of grown nodes, and renumber their parents."""
    batch = scores.shape[0]
    trees = [
        _select(row, above, num_nodes)
        for row, above in zip(scores.tolist(), parent.tolist(), strict=True)
    ]
    selected, parents = [tree[0] for tree in trees], [tree[1] for tree in trees]
    device = scores.device
    return (
        torch.tensor(selected, dtype=torch.int32, device=device).reshape(batch, num_nodes - 1),
        torch.tensor(parents, dtype=torch.int32, device=device).reshape(batch, num_nodes),
    )


def _select(
    scores: Sequence[float], parent: Sequence[int], num_nodes: int
) -> tuple[list[int], list[int]]:
    rank: list[float] = []
    above: list[int] = []
    for node, score in enumerate(scores):
        # Unchecked values: NaN ranks last, a parent that does not come first is the root.
        above.append(parent[node] if 0 <= parent[node] < node else -1)
        own = -math.inf if math.isnan(score) else score
        rank.append(own if above[node] < 0 else min(own, rank[above[node]]))
    best = sorted(range(len(rank)), key=lambda node: (-rank[node], node))
    selected = sorted(best[: num_nodes - 1])
    tree_node = {-1: 0} | {node: 1 + place for place, node in enumerate(selected)}
    return selected, [-1] + [tree_node[above[node]] for node in selected]


def topk_logprobs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest of each row's log_softmax and their ids, ties to the lower id."""
    order = logits.float().sort(dim=-1, descending=True, stable=True)
    log_total = logits.double().logsumexp(-1, keepdim=True)
    values = order.values[:, :k].double() - log_total
    # The clamp meets a row whose whole mass is one id, where rounding could pass 0.
    return values.clamp(max=0).float(), order.indices[:, :k].clone()
