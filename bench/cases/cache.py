"""Appending new rows to the cache, plain and with their rotary embedding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bench.case import Arguments, Case, Way
from bench.peers import caches
from bench.selection import Selection
from bench.shapes import MODELS


@dataclass(frozen=True)
class AppendCache(Case):
    op = "append_cache_"
    dtype: torch.dtype = torch.float32
    model: str = "qwen2.5-vl-7b"
    prefix: int = 4096
    nodes: int = 30
    batch: int = 1

    def bytes(self) -> int:
        model = MODELS[self.model]
        row = model.kv_heads * model.head_dim * self.dtype.itemsize
        return self.batch * (2 * 2 * self.nodes * row + 4)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        model = MODELS[self.model]
        generator = torch.Generator(device=device).manual_seed(seed)

        def rows(heads: int, count: int) -> torch.Tensor:
            shape = (self.batch, heads, count, model.head_dim)
            return torch.randn(shape, generator=generator, device=device).to(self.dtype)

        capacity = self.prefix + self.nodes
        lengths = torch.full((self.batch,), self.prefix, dtype=torch.int32, device=device)
        return {
            "key": rows(model.kv_heads, self.nodes),
            "value": rows(model.kv_heads, self.nodes),
            "key_cache": rows(model.kv_heads, capacity),
            "value_cache": rows(model.kv_heads, capacity),
            "prefix_lens": lengths,
        }

    def outcome(self, arguments: Arguments, result: Any) -> Any:
        return result, arguments["key_cache"], arguments["value_cache"]

    def peers(self, device: torch.device) -> list[Way]:
        return caches.append_cache()


@dataclass(frozen=True)
class RotateAppend(AppendCache):
    op = "rotate_append_"

    def contradiction(self) -> str | None:
        return (
            "head_dim must be even, to be rotated in halves"
            if MODELS[self.model].head_dim % 2
            else None
        )

    def bytes(self) -> int:
        model = MODELS[self.model]
        row = model.head_dim * self.dtype.itemsize
        rotated = 2 * self.nodes * row * model.heads + 2 * self.nodes * row  # query; cos and sin
        return super().bytes() + self.batch * rotated

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        model = MODELS[self.model]
        generator = torch.Generator(device=device).manual_seed(seed + 1)
        shape = (self.batch, model.heads, self.nodes, model.head_dim)
        query = torch.randn(shape, generator=generator, device=device)
        half = torch.randn((self.batch, self.nodes, model.head_dim // 2), generator=generator,
                           device=device)  # fmt: skip
        angles = torch.cat((half, half), -1)
        return super().arguments(device, seed) | {
            "query": query.to(self.dtype),
            "cos": angles.cos().to(self.dtype),
            "sin": angles.sin().to(self.dtype),
        }

    def peers(self, device: torch.device) -> list[Way]:
        return caches.rotate_append()


KINDS = (AppendCache, RotateAppend)


def cases(selection: Selection) -> Iterator[Case]:
    dtype = selection.dtype
    for kind in KINDS:
        if selection.size == "smoke":
            yield kind(dtype, model="tiny", prefix=32)
            continue
        yield kind(dtype)
        if selection.size == "full":
            yield kind(dtype, model="qwen2.5-vl-3b", nodes=60)
            yield kind(dtype, model="qwen2.5-vl-72b", nodes=60, batch=8)
