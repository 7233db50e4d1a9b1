"""How every acceptance walks a tree: its links, as plain integers, and the outputs it fills.

Nothing is relied on about the links: a child outside the tree ends the walk, and siblings must
ascend, so that no list of them can turn into a ring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class Links:
    """One request's tree as a walk reads it, from its `[T]` rows of a `TreeLayout`."""

    def __init__(self, depth: Tensor, first_child: Tensor, next_sibling: Tensor) -> None:
        self._first_child: list[int] = first_child.tolist()
        self._next_sibling: list[int] = next_sibling.tolist()
        self.is_idle = int(depth[0]) < 0

    def children(self, node: int) -> Iterator[int]:
        """The children of `node`, lowest first."""
        size, child = len(self._first_child), self._first_child[node]
        while 0 <= child < size:
            yield child
            previous, child = child, self._next_sibling[child]
            if child <= previous:
                return


Walk = tuple[Sequence[int], Sequence[int]]
"""A path of nodes and the tokens emitted along it, equally long; both empty for an idle request."""


def acceptance(
    walks: Sequence[Walk], max_path: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Pad the walks of a batch with -1: path, accept_length, tokens."""

    def padded(row: Sequence[int]) -> list[int]:
        return [*row, *[-1] * (max_path - len(row))]

    shape = (len(walks), max_path)
    path = torch.tensor([padded(walk[0]) for walk in walks], dtype=torch.int32, device=device)
    tokens = torch.tensor([padded(walk[1]) for walk in walks], dtype=torch.int64, device=device)
    length = torch.tensor([len(walk[0]) - 1 for walk in walks], dtype=torch.int32, device=device)
    return path.reshape(shape), length, tokens.reshape(shape)
