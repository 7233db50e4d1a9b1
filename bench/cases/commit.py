"""Gathering hidden rows, compacting caches, and both with the acceptance in one call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sparrow_kernels
from bench.case import Arguments, Call, Case, Way
from bench.cases.accept import walked_tokens
from bench.peers import commits
from bench.selection import Selection
from bench.shapes import MODELS, deepest_path, parents_tensor

_SPARE_SLOTS = 4
"""Slots behind the tree, so that its last node is not the cache's last row."""


@dataclass(frozen=True)
class GatherHidden(Case):
    op = "gather_hidden"
    dtype: torch.dtype = torch.float32
    rows: int = 1024
    layers: int = 3
    hidden: int = 3584

    def bytes(self) -> int:
        row = self.layers * self.hidden * self.dtype.itemsize
        return self.rows * (2 * row + 4)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator(device=device).manual_seed(seed)
        shape = (1, self.rows, self.hidden)
        states = [
            torch.randn(shape, generator=generator, device=device).to(self.dtype)
            for _ in range(self.layers)
        ]
        order = torch.randperm(self.rows, generator=generator, device=device)
        return {"states": states, "index": order.int().unsqueeze(0)}

    def peers(self, device: torch.device) -> list[Way]:
        return commits.gather_hidden()


@dataclass(frozen=True)
class CommitTree(Case):
    """All layers' caches are views of one slab, as ours are."""

    op = "commit_tree_"
    dtype: torch.dtype = torch.float32
    model: str = "qwen2.5-vl-7b"
    prefix: int = 512
    nodes: int = 60
    batch: int = 1

    def committed(self) -> int:
        """Path rows a request: the walk goes to the deepest node."""
        return len(deepest_path(self.nodes))

    def moved(self) -> int:
        """Those of them that do not lie where they belong already."""
        return sum(node != place for place, node in enumerate(deepest_path(self.nodes)))

    def bytes(self) -> int:
        model, element = MODELS[self.model], self.dtype.itemsize
        moved = 2 * model.layers * model.kv_heads * model.head_dim * self.moved()
        gathered = model.hidden * self.committed()
        tokens = self.nodes * (2 * 8 + 3 * 4) + 12 * self.committed()
        return self.batch * (2 * element * (moved + gathered) + tokens)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        model = MODELS[self.model]
        capacity = self.prefix + self.nodes + _SPARE_SLOTS
        shape = (2, model.layers, self.batch, model.kv_heads, capacity, model.head_dim)
        generator = torch.Generator(device=device).manual_seed(seed)
        slab = torch.randn(shape, generator=generator, device=device).to(self.dtype)
        shape_of_states = (self.batch, self.nodes, model.hidden)
        states = torch.randn(shape_of_states, generator=generator, device=device).to(self.dtype)
        tokens, target_tokens = walked_tokens(
            self.nodes, self.batch, device, torch.Generator().manual_seed(seed)
        )
        return {
            "tokens": tokens,
            "layout": sparrow_kernels.build_tree(parents_tensor(self.nodes, self.batch, device)),
            "target_tokens": target_tokens,
            "keys": list(slab[0].unbind()),
            "values": list(slab[1].unbind()),
            "states": [states],
            "prefix_lens": _lengths(self.prefix, self.batch, device),
            "max_path": self.committed(),
        }

    def outcome(self, arguments: Arguments, result: Any) -> Any:
        return result, committed_rows(arguments, self.prefix, self.committed())

    def reset(self, arguments: Arguments) -> Call | None:
        return lambda: arguments["prefix_lens"].fill_(self.prefix)  # a kernel, no copy

    def peers(self, device: torch.device) -> list[Way]:
        return commits.commit_tree()


@dataclass(frozen=True)
class CommitPath(CommitTree):
    op = "commit_path_"

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        whole = super().arguments(device, seed)
        acceptance = sparrow_kernels.accept_tree(
            whole["tokens"], whole["layout"], whole["target_tokens"], whole["max_path"]
        )
        names = ("keys", "values", "states", "prefix_lens")
        return {"acceptance": acceptance} | {name: whole[name] for name in names}

    def peers(self, device: torch.device) -> list[Way]:
        return []


@dataclass(frozen=True)
class CompactCache(CommitPath):
    op = "compact_cache_"

    def bytes(self) -> int:
        model, element = MODELS[self.model], self.dtype.itemsize
        moved = 2 * model.layers * model.kv_heads * model.head_dim * self.moved()
        return self.batch * (2 * element * moved + 4 * self.committed() + 8)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        whole = super().arguments(device, seed)
        acceptance = whole.pop("acceptance")
        del whole["states"]
        return whole | {"path": acceptance.path, "accept_length": acceptance.accept_length}

    def reset(self, arguments: Arguments) -> Call | None:
        return None  # lengths stay, and moving rows again is the same work


def committed_rows(arguments: Arguments, prefix: int, committed: int) -> tuple[Tensor, Tensor]:
    """What a commit leaves behind: the path's rows of every layer, and the lengths.

    What lies behind them is unspecified.
    """
    caches = arguments["keys"] + arguments["values"]
    rows = torch.stack([cache[:, :, : prefix + committed] for cache in caches])
    return rows, arguments["prefix_lens"]


def _lengths(prefix: int, batch: int, device: torch.device) -> Tensor:
    return torch.full((batch,), prefix, dtype=torch.int32, device=device)


KINDS = (GatherHidden, CommitTree, CommitPath, CompactCache)


def cases(selection: Selection) -> Iterator[Case]:
    dtype = selection.dtype
    if selection.size == "smoke":
        yield GatherHidden(dtype, rows=64, hidden=256)
        for kind in (CommitTree, CommitPath, CompactCache):
            yield kind(dtype, model="tiny", prefix=32, nodes=30)
        return
    yield GatherHidden(dtype)
    for kind in (CommitTree, CommitPath, CompactCache):
        yield kind(dtype)
    yield CommitTree(dtype, model="embedded", nodes=30)
    if selection.size == "full":
        yield GatherHidden(dtype, rows=30, hidden=8192)
        for model in ("qwen2.5-vl-3b", "qwen2.5-vl-72b", "qwen3-vl-8b"):
            yield CommitTree(dtype, model=model)
        yield CommitTree(dtype, batch=8, nodes=30)
        yield CommitTree(dtype, batch=32, nodes=30)
