"""Other forms of the ops' arguments: lists that are bound, pages, lengths a layer, float8 caches.

The same work as in `commit`, `cache` and `attention`, beside the usual form as a peer: what a form
costs or saves is their ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sparrow_kernels
from bench.case import Arguments, Call, Case, Way
from bench.cases.attention import TreeAttention
from bench.cases.cache import AppendCache, RotateAppend
from bench.cases.commit import CommitPath, CommitTree, CompactCache, committed_rows
from bench.selection import Selection
from bench.shapes import MODELS
from sparrow_kernels.ops.pages import gather_pages

BOUND, PAGES, PER_LAYER = "bound", "pages-16", "lens-per-layer"
FLOAT8 = "float8"
_PAGE_SIZE = 16


def _to_pages(caches: list[Tensor], seed: int) -> tuple[list[Tensor], Tensor]:
    """`[num_pages, Hkv, page_size, D]` of each cache, views of one slab, in a shuffled order."""
    batch, heads, slots, head_dim = caches[0].shape
    pages = -(-slots // _PAGE_SIZE)
    order = torch.randperm(batch * pages, generator=torch.Generator().manual_seed(seed))
    table = order.to(caches[0].device, torch.int32).reshape(batch, pages)
    slab = caches[0].new_zeros((len(caches), batch * pages, heads, _PAGE_SIZE, head_dim))
    for cache, pool in zip(caches, slab, strict=True):
        padded = torch.nn.functional.pad(cache, (0, 0, 0, pages * _PAGE_SIZE - slots))
        split = padded.reshape(batch, heads, pages, _PAGE_SIZE, head_dim)
        pool[table.long()] = split.transpose(1, 2)
    return list(slab), table


def _formed(arguments: Arguments, form: str, seed: int) -> Arguments:
    keys, values = arguments["keys"], arguments["values"]
    if form == PAGES:
        caches, table = _to_pages(keys + values, seed)
        changed = {"keys": caches[: len(keys)], "values": caches[len(keys) :], "block_table": table}
    elif form == PER_LAYER:
        lens = arguments["prefix_lens"]
        changed = {"prefix_lens": lens.expand(len(keys), -1).contiguous()}
    else:
        bound = sparrow_kernels.bind_caches(keys, values)
        changed = dict(zip(("keys", "values"), bound, strict=True))
    return arguments | changed


def _as_usual(arguments: Arguments) -> None:
    """The arguments of the usual form, in their place."""
    table = arguments.pop("block_table", None)
    for name in ("keys", "values"):
        arguments[name] = _contiguous(arguments[name], table)
    if arguments["prefix_lens"].dim() == 2:
        arguments["prefix_lens"] = arguments["prefix_lens"][0]  # what undoes a call undoes it too


def _contiguous(caches: list[Tensor], table: Tensor | None) -> list[Tensor]:
    return [cache if table is None else gather_pages(cache, table) for cache in caches]


class _Formed(Case):
    """What the three commits share."""

    CHOICES = {"form": (BOUND, PAGES, PER_LAYER)}
    prefix: int

    def call(self, arguments: Arguments) -> Any:
        return getattr(sparrow_kernels, self.op)(**arguments)

    def outcome(self, arguments: Arguments, result: Any) -> Any:
        table = arguments.get("block_table")
        lists = {name: _contiguous(arguments[name], table) for name in ("keys", "values")}
        rows, lens = committed_rows(
            arguments | lists,
            self.prefix,
            self.committed(),  # type: ignore[attr-defined]
        )
        return result, (rows, torch.atleast_2d(lens)[0])

    def peers(self, device: torch.device) -> list[Way]:
        def usual(arguments: Arguments) -> Call:
            _as_usual(arguments)
            return lambda: self.call(arguments)

        return [Way("ours, usual form", False, usual)]


@dataclass(frozen=True)
class FormedCommitTree(_Formed, CommitTree):
    nodes: int = 30
    form: str = BOUND

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        return _formed(CommitTree.arguments(self, device, seed), self.form, seed)


@dataclass(frozen=True)
class FormedCommitPath(_Formed, CommitPath):
    nodes: int = 30
    form: str = PAGES

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        return _formed(CommitPath.arguments(self, device, seed), self.form, seed)


@dataclass(frozen=True)
class FormedCompactCache(_Formed, CompactCache):
    nodes: int = 30
    form: str = PAGES

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        return _formed(CompactCache.arguments(self, device, seed), self.form, seed)


class _Paged(Case):
    """What the two appends share."""

    def outcome(self, arguments: Arguments, result: Any) -> Any:
        table = arguments.get("block_table")
        caches = _contiguous([arguments["key_cache"], arguments["value_cache"]], table)
        end = int(arguments["prefix_lens"][0]) + arguments["key"].shape[2]
        return result, *(cache[:, :, :end] for cache in caches)

    def peers(self, device: torch.device) -> list[Way]:
        def usual(arguments: Arguments) -> Call:
            table = arguments.pop("block_table")
            for name in ("key_cache", "value_cache"):
                arguments[name] = gather_pages(arguments[name], table)
            return lambda: self.call(arguments)

        return [Way("ours, usual form", False, usual)]


def _paged(arguments: Arguments, seed: int) -> Arguments:
    names = ("key_cache", "value_cache")
    caches, table = _to_pages([arguments[name] for name in names], seed)
    return arguments | dict(zip(names, caches, strict=True)) | {"block_table": table}


@dataclass(frozen=True)
class PagedAppendCache(_Paged, AppendCache):
    form: str = PAGES

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        return _paged(AppendCache.arguments(self, device, seed), seed)


@dataclass(frozen=True)
class PagedRotateAppend(_Paged, RotateAppend):
    form: str = PAGES

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        return _paged(RotateAppend.arguments(self, device, seed), seed)


@dataclass(frozen=True)
class Float8TreeAttention(TreeAttention):
    """The same rows, tree and prefix; keys and values in float8, a scale a KV head.

    Scales are powers of two, so that the usual form holds the same numbers in the rows' dtype.
    """

    nodes: int = 1
    form: str = FLOAT8

    def bytes(self) -> int:
        model = MODELS[self.model]
        cache = 2 * model.kv_heads * (self.prefix + self.nodes) * model.head_dim
        saved = cache * (self.dtype.itemsize - 1)
        return super().bytes() - self.batch * (saved - 8 * model.kv_heads)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        plain = super().arguments(device, seed)
        kv_heads = MODELS[self.model].kv_heads
        scale = 2.0 ** -(7 + torch.arange(self.batch * kv_heads, device=device) % 2).float()
        scale = scale.view(self.batch, kv_heads)
        for name in ("key", "value"):
            rows = plain[name].float() / scale[:, :, None, None]
            plain |= {name: rows.clamp(-448, 448).to(torch.float8_e4m3fn), f"{name}_scale": scale}
        return plain

    def exact(self, arguments: Arguments) -> Any:
        return super().exact(_widened(arguments, torch.float64))

    def ours(self, device: torch.device) -> list[Way]:
        return [way for way in super().ours(device) if way.name != "torch"]  # it has no float8

    def peers(self, device: torch.device) -> list[Way]:
        def usual(arguments: Arguments) -> Call:
            given = _widened(arguments, self.dtype)
            return lambda: self.call(given)

        return [Way("ours, usual form", False, usual)]


def _widened(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """Keys and values in `dtype`, times their scales."""
    found = dict(arguments)
    for name in ("key", "value"):
        scale = found.pop(f"{name}_scale")
        found[name] = (found[name].double() * scale.double()[:, :, None, None]).to(dtype)
    return found


KINDS = (
    *(FormedCommitTree, FormedCommitPath, FormedCompactCache),
    *(PagedAppendCache, PagedRotateAppend, Float8TreeAttention),
)


def cases(selection: Selection) -> Iterator[Case]:
    dtype, is_smoke = selection.dtype, selection.size == "smoke"
    small: dict[str, Any] = {"model": "tiny", "prefix": 32} if is_smoke else {}
    for form in (BOUND, PAGES, PER_LAYER):
        yield FormedCommitTree(dtype, form=form, **small)
    if not is_smoke:
        yield FormedCommitTree(dtype, form=BOUND, model="narrow")
    for kind in KINDS[1:-1]:
        yield kind(dtype, **small)
    if is_smoke:
        yield Float8TreeAttention(dtype, model="tiny", prefix=300, nodes=8)
        return
    for model in ("qwen2.5-vl-7b", *(("embedded",) if selection.device == "cpu" else ())):
        for nodes in (1, 8):
            yield Float8TreeAttention(dtype, model=model, nodes=nodes)
