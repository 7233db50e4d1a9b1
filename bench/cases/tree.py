"""Laying out and reranking draft trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

import sparrow_kernels
from bench.case import Arguments, Case, Way
from bench.peers import trees
from bench.selection import Selection
from bench.shapes import TREE_SIZES, parents_tensor, words


@dataclass(frozen=True)
class BuildTree(Case):
    op = "build_tree"
    HAS_ONE_DTYPE = True
    dtype: torch.dtype = torch.int32
    nodes: int = 60
    batch: int = 1

    def bytes(self) -> int:
        read = 4 * self.batch * (self.nodes + 1)
        return read + self.batch * (self.nodes * (4 * 4 + 8 * words(self.nodes)) + 4)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        counts = torch.full((self.batch,), self.nodes, dtype=torch.int32, device=device)
        return {"parent": parents_tensor(self.nodes, self.batch, device), "num_nodes": counts}

    def peers(self, device: torch.device) -> list[Way]:
        return [*trees.build_tree(), trees.sgl_build_tree()]


@dataclass(frozen=True)
class SelectTree(Case):
    op = "select_tree"
    HAS_ONE_DTYPE = True
    dtype: torch.dtype = torch.float32
    pool: int = 200
    nodes: int = 30
    batch: int = 1

    def contradiction(self) -> str | None:
        return (
            f"T must be at most pool + 1 = {self.pool + 1}" if self.nodes > self.pool + 1 else None
        )

    def bytes(self) -> int:
        return self.batch * (8 * self.pool + 8 * self.nodes - 4)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator().manual_seed(seed)
        scores = -torch.rand(self.batch, self.pool, generator=generator).cumsum(-1)
        # The first eight hang on the root, then eight children a node: as a tree is grown.
        parent = torch.tensor([max((i - 8) // 8, -1) for i in range(self.pool)], dtype=torch.int32)
        parent = parent.expand(self.batch, self.pool).contiguous()
        return {
            "scores": scores.to(device),
            "parent": parent.to(device),
            "num_nodes": self.nodes,
        }

    def exact(self, arguments: Arguments) -> object:
        return self.rounded(arguments)  # integers come out


@dataclass(frozen=True)
class DenseTreeMask(Case):
    op = "dense_tree_mask"
    HAS_ONE_DTYPE = True
    dtype: torch.dtype = torch.int32
    prefix: int = 4096
    nodes: int = 30
    batch: int = 1

    def bytes(self) -> int:
        return self.batch * self.nodes * (8 * words(self.nodes) + self.prefix + self.nodes)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        layout = sparrow_kernels.build_tree(parents_tensor(self.nodes, self.batch, device))
        lengths = torch.full((self.batch,), self.prefix, dtype=torch.int32, device=device)
        capacity = self.prefix + self.nodes
        return {"layout": layout, "prefix_lens": lengths, "capacity": capacity}


@dataclass(frozen=True)
class PackAncestors(Case):
    op = "pack_ancestors"
    HAS_ONE_DTYPE = True
    dtype: torch.dtype = torch.bool
    nodes: int = 60
    batch: int = 1

    def bytes(self) -> int:
        return self.batch * self.nodes * (self.nodes + 8 * words(self.nodes))

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        layout = sparrow_kernels.build_tree(parents_tensor(self.nodes, self.batch, device))
        return {"mask": sparrow_kernels.unpack_ancestors(layout.ancestors, self.nodes)}


@dataclass(frozen=True)
class UnpackAncestors(PackAncestors):
    op = "unpack_ancestors"

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        layout = sparrow_kernels.build_tree(parents_tensor(self.nodes, self.batch, device))
        return {"ancestors": layout.ancestors, "T": self.nodes}


KINDS = (BuildTree, SelectTree, DenseTreeMask, PackAncestors, UnpackAncestors)


def cases(selection: Selection) -> Iterator[Case]:
    for nodes, batch in TREE_SIZES[selection.size]:
        yield BuildTree(nodes=nodes, batch=batch)
    yield SelectTree()
    if selection.size == "full":
        yield SelectTree(pool=456, nodes=60, batch=32)
    yield DenseTreeMask()
    yield PackAncestors()
    yield UnpackAncestors()
