"""Caches for tests: kinds of storage, drawn paths, and which rows a commit may touch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from sparrow_kernels.testing import guard_rows

Caches = tuple[list[Tensor], list[Tensor]]
LAYERS, HEADS, DIM = 3, 2, 5


@dataclass(frozen=True)
class Committed:
    """Requests with a committed prefix, a tree behind it and an accepted path through the tree."""

    capacity: int
    num_nodes: list[int]
    prefix_lens: list[int]
    paths: list[list[int]]
    max_path: int

    def path(self) -> Tensor:
        rows = [path + [-1] * (self.max_path - len(path)) for path in self.paths]
        return torch.tensor(rows, dtype=torch.int32)

    def accept_length(self) -> Tensor:
        return torch.tensor([len(path) - 1 for path in self.paths], dtype=torch.int32)

    def lens(self) -> Tensor:
        return torch.tensor(self.prefix_lens, dtype=torch.int32)


@st.composite
def commits(draw: st.DrawFn) -> Committed:
    num_nodes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
    lens = [draw(st.integers(0, 6)) for _ in num_nodes]
    paths = [_path(draw, size) if size else [] for size in num_nodes]
    least = max(n + size for n, size in zip(lens, num_nodes, strict=True))
    longest = max(1, *map(len, paths))
    return Committed(
        capacity=max(1, least + draw(st.integers(0, 2))),
        num_nodes=num_nodes,
        prefix_lens=lens,
        paths=paths,
        max_path=longest + draw(st.integers(0, 2)),
    )


def _path(draw: st.DrawFn, size: int) -> list[int]:
    others = draw(st.sets(st.integers(1, size - 1))) if size > 1 else set()
    return [0, *sorted(others)]


def _apart(batch: int, capacity: int, fill: Callable) -> Caches:
    def one() -> list[Tensor]:
        return [fill(batch, HEADS, capacity, DIM) for _ in range(LAYERS)]

    return one(), one()


def _slab(batch: int, capacity: int, fill: Callable) -> Caches:
    slab = fill(LAYERS, 2, batch, HEADS, capacity, DIM)
    return [slab[layer, 0] for layer in range(LAYERS)], [slab[layer, 1] for layer in range(LAYERS)]


def _slots_first(batch: int, capacity: int, fill: Callable) -> Caches:
    """As `[B, N, Hkv, D]` storage gives it, with spare slots and columns around."""
    slab = fill(LAYERS, 2, batch, capacity + 3, HEADS, DIM + 2)[..., 1 : capacity + 1, :, 1:-1]
    views = slab.transpose(3, 4)
    return [views[n, 0] for n in range(LAYERS)], [views[n, 1] for n in range(LAYERS)]


STORAGES = {"apart": _apart, "slab": _slab, "slots first": _slots_first}


class GuardedCaches:
    """Random caches of some storage, surrounded by guards, with a copy of all of it from before."""

    def __init__(
        self, storage: str, batch: int, capacity: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self._context = guard_rows()
        guards = self._context.__enter__()
        self._wholes: list[Tensor] = []

        def fill(*shape: int) -> Tensor:
            whole = guards.copy(torch.randn(shape).to(dtype))
            self._wholes.append(whole)
            return whole

        self.keys, self.values = STORAGES[storage](batch, capacity, fill)
        self.before = [cache.clone() for cache in (*self.keys, *self.values)]
        self._wholes_before = [whole.clone() for whole in self._wholes]

    def expect_moved(self, commit: Committed) -> None:
        """Path rows lie behind the prefix; old tree rows past them may be anything; no other
        memory has changed."""
        for cache, before in zip((*self.keys, *self.values), self.before, strict=True):
            for b, path in enumerate(commit.paths):
                prefix_len = commit.prefix_lens[b]
                for k, node in enumerate(path):
                    moved = before[b, :, prefix_len + node]
                    assert torch.equal(cache[b, :, prefix_len + k], moved), (b, k)
                end = prefix_len + commit.num_nodes[b]
                for slots in (slice(0, prefix_len), slice(end if path else 0, None)):
                    assert torch.equal(cache[b, :, slots], before[b, :, slots]), (b, slots)
        # Put the caches back: whatever differs now was written outside of them.
        for cache, before in zip((*self.keys, *self.values), self.before, strict=True):
            cache.copy_(before)
        self.expect_untouched()

    def expect_untouched(self) -> None:
        for whole, before in zip(self._wholes, self._wholes_before, strict=True):
            assert torch.equal(whole, before)
        self._context.__exit__(None, None, None)


def clones(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]
