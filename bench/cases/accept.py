"""Walking a tree along the target's own tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

import sparrow_kernels
from bench.case import Arguments, Case, Way
from bench.peers import trees
from bench.selection import Selection
from bench.shapes import TREE_SIZES, deepest_path, parents_tensor

_VOCAB = 1_000


def walked_tokens(
    nodes: int, batch: int, device: torch.device, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`[B, T]` tokens and target tokens, such that a path to the deepest node is accepted."""
    tokens = torch.randint(_VOCAB, (batch, nodes), generator=generator)
    target_tokens = torch.randint(_VOCAB, (batch, nodes), generator=generator) + _VOCAB
    path = deepest_path(nodes)
    for parent, node in pairwise(path):
        tokens[:, node] = 2 * _VOCAB + node  # no sibling has it
        target_tokens[:, parent] = tokens[:, node]
    return tokens.to(device), target_tokens.to(device)


@dataclass(frozen=True)
class AcceptTree(Case):
    op = "accept_tree"
    HAS_ONE_DTYPE = True
    dtype: torch.dtype = torch.int64
    nodes: int = 60
    batch: int = 1

    def max_path(self) -> int:
        return len(deepest_path(self.nodes))

    def bytes(self) -> int:
        read = self.batch * self.nodes * (2 * 8 + 3 * 4)
        return read + self.batch * (12 * self.max_path() + 4)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator().manual_seed(seed)
        tokens, target_tokens = walked_tokens(self.nodes, self.batch, device, generator)
        return {
            "tokens": tokens,
            "layout": sparrow_kernels.build_tree(parents_tensor(self.nodes, self.batch, device)),
            "target_tokens": target_tokens,
            "max_path": self.max_path(),
        }

    def peers(self, device: torch.device) -> list[Way]:
        return [*trees.accept_tree(), trees.sgl_accept_tree()]


KINDS = (AcceptTree,)


def cases(selection: Selection) -> Iterator[Case]:
    for nodes, batch in TREE_SIZES[selection.size]:
        yield AcceptTree(nodes=nodes, batch=batch)
