"""Paged caches for tests: the same call on caches in pages and on contiguous ones, drawn.

A pool holds the pages of all requests in a shuffled order, among pages of nobody; what is no slot
of a request is poison. After both calls it must hold, bit for bit, the contiguous caches' rows
where the table says, and poison elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tree_cases import random_tree

SIZES = (1, 16, 64, 256)
POISON = 777.0


class Pool:
    """Contiguous caches `[B, Hkv, N, D]`, and their twins in pages `[num_pages, Hkv, size, D]`."""

    def __init__(self, caches: list[Tensor], size: int, shared: int, source: random.Random) -> None:
        batch, heads, slots, head_dim = caches[0].shape
        self.caches, self.size = caches, size
        pages = -(-slots // size)
        order = list(range(batch * pages + 3))
        source.shuffle(order)
        rows = [order[b * pages : (b + 1) * pages] for b in range(batch)]
        for row in rows:
            row[: shared // size] = rows[0][: shared // size]
        self.table = torch.tensor(rows, dtype=torch.int32).reshape(batch, pages)
        self.slots_first = source.random() < 0.5  # as engines keep pages: [num_pages, size, Hkv, D]
        shape = (len(order), size, heads, head_dim) if self.slots_first else None
        self.pages = []
        for cache in caches:
            if shape is None:
                pool = cache.new_full((len(order), heads, size, head_dim), POISON)
            else:
                pool = cache.new_full(shape, POISON).transpose(1, 2)
            self._scatter(cache, pool)
            self.pages.append(pool)

    def _scatter(self, cache: Tensor, pool: Tensor) -> None:
        for b, row in enumerate(self.table.tolist()):
            for place, page in enumerate(row):
                part = cache[b, :, place * self.size : (place + 1) * self.size]
                pool[page, :, : part.shape[1]] = part

    def expect_same(self) -> None:
        for cache, pool in zip(self.caches, self.pages, strict=True):
            expected = torch.full_like(pool, POISON)
            self._scatter(cache, expected)
            assert torch.equal(pool, expected)


class Drawn:
    """A batch of requests whose trees fit behind their prefixes, in a few layers."""

    def __init__(self, seed: int) -> None:
        source = self.source = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.size = SIZES[seed % len(SIZES)]
        self.batch, self.layers = source.randint(1, 3), source.randint(1, 2)
        self.nodes, heads, head_dim = source.randint(1, 9), source.randint(1, 3), 4
        self.shared = source.choice([0, self.size, 2 * self.size]) if seed % 3 else 0
        most = self.shared + source.choice([3, self.size, 2 * self.size + 1])
        per_layer = seed % 2 == 1
        shape = (self.layers, self.batch) if per_layer else (self.batch,)
        self.lens = self.drawn(shape, self.shared, most + 1).int()
        slots = most + self.nodes
        whole = (2 * self.layers, self.batch, heads, slots, head_dim)
        slab = self.drawn(whole, -99, 99).float()
        slab[:, :, :, : self.shared] = slab[:, :1, :, : self.shared]
        caches = [cache.clone() for cache in slab]
        self.pool = Pool(caches, self.size, self.shared, source)
        self.heads, self.head_dim = heads, head_dim

    def drawn(self, shape: tuple[int, ...], low: int, high: int) -> Tensor:
        """Integers, on the device that a test made the default."""
        cpu = torch.randint(low, high, shape, generator=self.generator, device="cpu")
        return cpu.to(torch.empty(0).device)

    def rows(self, heads: int) -> Tensor:
        return self.drawn((self.batch, heads, self.nodes, self.head_dim), -99, 99) / 8

    def caches(self, paged: bool) -> tuple[list[Tensor], list[Tensor]]:
        both = self.pool.pages if paged else self.pool.caches
        return both[: self.layers], both[self.layers :]

    def twice(self, call: Callable[..., Any]) -> None:
        """`call(keys, values, lens, block_table)` does the same to both, and returns the same."""
        results = []
        for table in (None, self.pool.table):
            lens = self.lens.clone()
            result = call(*self.caches(table is not None), lens, table)
            results.append((lens, *(result if isinstance(result, (list, tuple)) else [result])))
        for one, other in zip(*results, strict=True):
            assert one is other if one is None else torch.equal(one, other)
        self.pool.expect_same()


def append(ops: Any, drawn: Drawn) -> None:
    key, value = drawn.rows(drawn.heads), drawn.rows(drawn.heads)

    def call(keys: list, values: list, lens: Tensor, table: Tensor | None) -> None:
        for layer in range(drawn.layers):
            own = torch.atleast_2d(lens)[layer % torch.atleast_2d(lens).shape[0]]
            ops.append_cache_(key, value, keys[layer], values[layer], own, table)

    drawn.twice(call)


def rotate(ops: Any, drawn: Drawn) -> None:
    query, key, value = drawn.rows(4), drawn.rows(drawn.heads), drawn.rows(drawn.heads)
    cos, sin = drawn.rows(1)[:, 0], drawn.rows(1)[:, 0]

    def call(keys: list, values: list, lens: Tensor, table: Tensor | None) -> Tensor:
        own = torch.atleast_2d(lens)[0]
        return ops.rotate_append_(query, key, value, cos, sin, keys[0], values[0], own, table)

    drawn.twice(call)


def _path(drawn: Drawn) -> tuple[Tensor, Tensor]:
    paths = []
    for _ in range(drawn.batch):
        others = sorted(drawn.source.sample(range(1, drawn.nodes), min(3, drawn.nodes - 1)))
        paths.append([0, *others][: drawn.source.randint(0, 4)])  # none: an idle request
    rows = [path + [-1] * (4 - len(path)) for path in paths]
    return (
        torch.tensor(rows, dtype=torch.int32),
        torch.tensor([len(path) - 1 for path in paths], dtype=torch.int32),
    )


def compact(ops: Any, drawn: Drawn) -> None:
    path, length = _path(drawn)
    drawn.twice(lambda keys, values, lens, table: ops.compact_cache_(
        keys, values, path, length, lens, table))  # fmt: skip


def commit_path(ops: Any, drawn: Drawn) -> None:
    path, length = _path(drawn)
    states = [drawn.rows(1)[:, 0] for _ in range(2)]
    drawn.twice(lambda keys, values, lens, table: ops.commit_path_(
        path, length, keys, values, states, lens, table))  # fmt: skip


def commit_tree(ops: Any, drawn: Drawn) -> None:
    parents = [random_tree(drawn.nodes, drawn.source.randrange(99)) for _ in range(drawn.batch)]
    layout = ops.build_tree(torch.tensor(parents, dtype=torch.int32), None)[:5]
    tokens, wanted = (drawn.drawn((drawn.batch, drawn.nodes), 0, 2) for _ in range(2))
    states = [drawn.rows(1)[:, 0]]
    drawn.twice(lambda keys, values, lens, table: ops.commit_tree_(
        tokens, *layout, wanted, keys, values, states, lens, 4, table))  # fmt: skip


CALLS = (append, rotate, compact, commit_path, commit_tree)
