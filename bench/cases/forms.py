"""The other forms of the cache ops' arguments: lists that are bound, pages, lengths a layer.

The same work as in `commit` and `cache`, beside the usual form as a peer: what a form costs or
saves is their ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sparrow_kernels
from bench.case import Arguments, Call, Case, Way
from bench.cases.cache import AppendCache, RotateAppend
from bench.cases.commit import CommitPath, CommitTree, CompactCache, committed_rows
from bench.selection import Selection
from sparrow_kernels.ops.pages import gather_pages

BOUND, PAGES, PER_LAYER = "bound", "pages-16", "lens-per-layer"
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


KINDS = (
    *(FormedCommitTree, FormedCommitPath, FormedCompactCache),
    *(PagedAppendCache, PagedRotateAppend),
)


def cases(selection: Selection) -> Iterator[Case]:
    dtype, is_smoke = selection.dtype, selection.size == "smoke"
    small: dict[str, Any] = {"model": "tiny", "prefix": 32} if is_smoke else {}
    for form in (BOUND, PAGES, PER_LAYER):
        yield FormedCommitTree(dtype, form=form, **small)
    if not is_smoke:
        yield FormedCommitTree(dtype, form=BOUND, model="narrow")
    for kind in KINDS[1:]:
        yield kind(dtype, **small)
