"""Shapes of real Vid-LLMs' text models, from their configurations, and of draft trees."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor


class Model(NamedTuple):
    """One text model: query heads, KV heads, head dim, hidden size, vocabulary, layers."""

    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    layers: int


class _Models(dict[str, Model]):
    """By name; a shape given by hand has its sizes for a name, as `name_of` makes it."""

    def __missing__(self, name: str) -> Model:
        parts = name.split("/")
        if len(parts) != len(Model._fields) or not all(part.isdecimal() for part in parts):
            raise ValueError(
                f"model must be one of {', '.join(self)}, or {'/'.join(Model._fields)} in numbers,"
                f" got {name!r}"
            )
        made = Model(*map(int, parts))
        if min(made) < 1 or made.heads % made.kv_heads:
            raise ValueError(
                f"a model's sizes must be at least 1 and heads a multiple of kv_heads, got {made}"
            )
        return made


MODELS = _Models({
    "qwen2.5-vl-3b": Model(16, 2, 128, 2048, 151_936, 36),
    "qwen2.5-vl-7b": Model(28, 4, 128, 3584, 152_064, 28),
    "qwen2.5-vl-72b": Model(64, 8, 128, 8192, 152_064, 80),
    "qwen3-vl-8b": Model(32, 8, 128, 4096, 151_936, 36),
    "llava-onevision-7b": Model(28, 4, 128, 3584, 152_000, 28),
    "llava-onevision-72b": Model(64, 8, 128, 8192, 152_000, 80),
    "embedded": Model(4, 2, 32, 128, 390, 8),
    "narrow": Model(4, 2, 32, 128, 390, 28),  # the embedded one of 28 layers: costs a layer alone
    "tiny": Model(4, 2, 16, 64, 256, 2),
})  # fmt: skip


def name_of(model: Model) -> str:
    """The name by which `MODELS` has a model of these sizes."""
    known = (name for name, sizes in MODELS.items() if sizes == model)
    return next(known, "/".join(map(str, model)))


TREE_SIZES = {
    "smoke": ((60, 1),),
    "quick": ((30, 1), (64, 1), (64, 64)),
    "full": tuple(product((64, 8, 25, 30, 48, 60, 256), (1, 64))),
}
"""Nodes and batch of the trees that a run of a size lays out and walks."""

_BRANCHING = 3


def tree_parents(nodes: int) -> list[int]:
    """Parents of a full tree of three children a node: 30 nodes are 4 levels deep."""
    return [-1, *((node - 1) // _BRANCHING for node in range(1, nodes))]


def tree_depths(nodes: int) -> list[int]:
    depths = [0]
    for parent in tree_parents(nodes)[1:]:
        depths.append(depths[parent] + 1)
    return depths


def deepest_path(nodes: int) -> list[int]:
    """The nodes from the root to the first of the deepest."""
    parents, depths = tree_parents(nodes), tree_depths(nodes)
    path = [depths.index(max(depths))]
    while path[0] > 0:
        path.insert(0, parents[path[0]])
    return path


def parents_tensor(nodes: int, batch: int, device: torch.device) -> Tensor:
    """`[B, T]` int32."""
    parents = torch.tensor(tree_parents(nodes), dtype=torch.int32, device=device)
    return parents.expand(batch, nodes).contiguous()


def seen_tree_slots(nodes: int) -> int:
    """Pairs of a node and an ancestor of it, itself included."""
    return sum(tree_depths(nodes)) + nodes


def words(nodes: int) -> int:
    """64-bit words an ancestor row takes."""
    return -(-nodes // 64)
