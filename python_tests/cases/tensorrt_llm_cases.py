"""TensorRT-LLM's decision by paths in plain Python, and drawn trees for it."""

from __future__ import annotations

import torch
from torch import Tensor
from tree_cases import padded, random_tree

from sparrow_kernels import Acceptance, TreeLayout, accept_tree, build_tree

SIZES, NODES, DEEPEST = (7, 0, 33, 1, 70), 72, 20


def forest(sizes: tuple[int, ...] = SIZES, nodes: int = NODES) -> TreeLayout:
    trees = [random_tree(size, seed) if size else [] for seed, size in enumerate(sizes)]
    return build_tree(*padded(trees, nodes))


def accepted_as_documented(paths: list, draft: list[int], target: list[int]) -> tuple[int, int]:
    """Of `acceptDraftTokensByIdsWithPaths`: the longest row of `paths` whose draft tokens are what
    the target says before them; emitted tokens, and the row. `draft[k]` is of node k + 1."""
    best = (-1, -1)
    for row, path in enumerate(paths):
        if path[0] == -1:
            continue
        length = 1
        while length < len(path) and path[length] != -1:
            if draft[path[length] - 1] != target[path[length - 1]]:
                break
            length += 1
        if length > best[0]:
            best = (length, row)
    return best


def verified(layout: TreeLayout, seed: int = 0) -> tuple[Acceptance, Tensor, Tensor]:
    """What we accept of drawn tokens; of three, so that much is. Siblings differ, as theirs do."""
    generator = torch.Generator().manual_seed(seed)
    shape = layout.depth.shape
    tokens = torch.arange(shape[1]).repeat(shape[0], 1)
    # The target follows one of a node's children, or nobody.
    child = layout.first_child.long()
    later = layout.next_sibling.long().gather(1, child.clamp(min=0))
    picked = torch.where(
        (torch.rand(shape, generator=generator) < 0.4) & (later >= 0), later, child
    )
    stops = torch.rand(shape, generator=generator) < 0.1
    targets = torch.where((picked < 0) | stops, 500, picked)
    return accept_tree(tokens, layout, targets, DEEPEST), tokens, targets
