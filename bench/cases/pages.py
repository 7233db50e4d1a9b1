"""Caches as serving engines keep them: keys in pages, keys with a bias, what each slot weighs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.case import Arguments, Call, Case, Way
from bench.cases.attention import TreeAttention
from bench.selection import Selection
from bench.shapes import MODELS
from sparrow_kernels.ops.pages import gather_pages


def in_pages(cache: Tensor, table: Tensor, page_size: int) -> Tensor:
    """A cache `[B, Hkv, N, D]` as `[pages, Hkv, page_size, D]`, laid out as `table` says."""
    batch, heads, slots, head_dim = cache.shape
    rows = cache.view(batch, heads, slots // page_size, page_size, head_dim).transpose(1, 2)
    pages = cache.new_empty((table.numel(), heads, page_size, head_dim))
    pages[table.flatten().long()] = rows.reshape(pages.shape)
    return pages


@dataclass(frozen=True)
class PagedTreeAttention(TreeAttention):
    """The same tree and prefix, in pages at random places."""

    page_size: int = 16

    def capacity(self) -> int:
        """Of a request: that of a cache of one piece."""
        return -(-(self.prefix + self.nodes) // 64) * 64

    def pages(self) -> int:
        return self.capacity() // self.page_size

    def contradiction(self) -> str | None:
        capacity = self.capacity()
        return f"page_size must divide {capacity} slots" if capacity % self.page_size else None

    def bytes(self) -> int:
        return super().bytes() + 4 * self.batch * self.pages()

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        plain = super().arguments(device, seed)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.batch * self.pages(), generator=generator)
        table = order.to(device, torch.int32).view(self.batch, -1)
        caches = {name: in_pages(plain[name], table, self.page_size) for name in ("key", "value")}
        return plain | caches | {"block_table": table}

    def peers(self, device: torch.device) -> list[Way]:
        """Those of the contiguous case attend to the same; so does its own op."""

        def usual(arguments: Arguments) -> Call:
            given = dict(arguments)
            table = given.pop("block_table")
            given |= {name: gather_pages(given[name], table) for name in ("key", "value")}
            return lambda: self.call(given)

        return [Way("ours, usual form", False, usual)]


@dataclass(frozen=True)
class BiasedTreeAttention(TreeAttention):
    """The same tree and prefix, a bias a key of each KV head."""

    key_bias: bool = True  # for its name

    def bytes(self) -> int:
        return super().bytes() + 4 * self.batch * MODELS[self.model].kv_heads * self.prefix

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        plain = super().arguments(device, seed)
        generator = torch.Generator(device=device).manual_seed(seed)
        shape = plain["key"].shape[:3]
        return plain | {"key_bias": torch.randn(shape, generator=generator, device=device)}

    def peers(self, device: torch.device) -> list:
        return []


@dataclass(frozen=True)
class AttentionMass(Case):
    op = "attention_mass"
    dtype: torch.dtype = torch.float32
    model: str = "qwen2.5-vl-7b"
    prefix: int = 25_600
    rows: int = 64
    batch: int = 1

    def bytes(self) -> int:
        """Two passes: log-sum-exps are not given."""
        model, element = MODELS[self.model], self.dtype.itemsize
        keys = 2 * model.kv_heads * self.prefix * model.head_dim * element
        queries = 2 * model.heads * self.rows * model.head_dim * element
        return self.batch * (keys + queries + 4 * model.kv_heads * self.prefix + 4)

    def flops(self) -> int:
        return 4 * MODELS[self.model].head_dim * self.pairs()

    def pairs(self) -> int:
        """Pairs of a query row and a slot, over all heads and requests."""
        return self.batch * MODELS[self.model].heads * self.rows * self.prefix

    def exps(self) -> int:
        return 2 * self.pairs()

    def summands(self) -> float:
        return 1.0

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        model = MODELS[self.model]
        generator = torch.Generator(device=device).manual_seed(seed)

        def rows(heads: int, count: int) -> Tensor:
            shape = (self.batch, heads, count, model.head_dim)
            return torch.randn(shape, generator=generator, device=device).to(self.dtype)

        lengths = torch.full((self.batch,), self.prefix, dtype=torch.int32, device=device)
        return {
            "query": rows(model.heads, self.rows),
            "key": rows(model.kv_heads, self.prefix),
            "prefix_lens": lengths,
        }


KINDS = (PagedTreeAttention, BiasedTreeAttention, AttentionMass)


def cases(selection: Selection) -> Iterator[Case]:
    dtype = selection.dtype
    if selection.size == "smoke":
        yield PagedTreeAttention(dtype, model="tiny", prefix=300, nodes=8)
        yield BiasedTreeAttention(dtype, model="tiny", prefix=300, nodes=8)
        yield AttentionMass(dtype, model="tiny", prefix=300, rows=8)
        return
    model, prefix = "qwen2.5-vl-7b", 25_600
    if selection.device == "cpu":
        model, prefix = "embedded", 24_064
    for nodes in (1, 30):  # as those of one piece are measured
        for page_size in (16, 64):
            yield PagedTreeAttention(dtype, model, prefix, nodes, page_size=page_size)
        yield BiasedTreeAttention(dtype, model=model, prefix=prefix, nodes=nodes)
    yield AttentionMass(dtype, model=model, prefix=prefix)
