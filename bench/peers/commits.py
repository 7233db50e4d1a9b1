"""Gathering and commit by tensor operations: over one slab of all layers, and layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.case import Arguments, Call, TorchWay, Way
from bench.peers import trees
from sparrow_kernels.ops.types import Acceptance


def gather_hidden() -> list[Way]:
    return list(TorchWay(_gather_hidden).ways())


def _gather_hidden(arguments: Arguments) -> Tensor:
    index = arguments["index"].long()
    batch = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
    return torch.cat([states[batch, index] for states in arguments["states"]], -1)


def commit_tree() -> list[Way]:
    return [
        Way("torch, one slab", False, _over_one_slab),
        Way("torch, layer by layer", False, _layer_by_layer),
        Way("torch, one slab, compiled", False, _compiled_over_one_slab, compiles=True),
    ]


def _layer_by_layer(arguments: Arguments) -> Call:
    given = trees.with_ancestors(arguments)

    def call() -> Any:
        acceptance, source, target = _accepted_rows(given)
        for cache in given["keys"] + given["values"]:
            _move(cache, source, target, 0)
        return _finish(given, acceptance)

    return call


def _over_one_slab(arguments: Arguments) -> Call:
    """All layers' rows moved by one gather and one scatter, where they lie in one tensor."""
    given = trees.with_ancestors(arguments)
    slab = _slab(given["keys"] + given["values"])
    return lambda: _commit_slab(given, slab)


def _compiled_over_one_slab(arguments: Arguments) -> Call:
    given = trees.with_ancestors(arguments)
    slab = _slab(given["keys"] + given["values"])
    function = torch.compile(_commit_slab, dynamic=False)
    return lambda: function(given, slab)


def _commit_slab(arguments: Arguments, slab: Tensor) -> Any:
    acceptance, source, target = _accepted_rows(arguments)
    _move(slab, source, target, 1)
    return _finish(arguments, acceptance)


def _slab(caches: list[Tensor]) -> Tensor:
    """The one tensor `[2 * L, B, Hkv, N, D]` that the caches, in this order, are views of."""
    first = caches[0]
    step = caches[1].storage_offset() - first.storage_offset()
    return first.as_strided((len(caches), *first.shape), (step, *first.stride()))


def _accepted_rows(arguments: Arguments) -> tuple[Acceptance, Tensor, Tensor]:
    """The acceptance, and `[B, S]` slots to move rows from and to; what is no path stays put."""
    acceptance = trees.accept_by_masks(arguments)
    place = torch.arange(acceptance.path.shape[1], device=acceptance.path.device)
    begin = arguments["prefix_lens"].long().unsqueeze(1)
    source = begin + torch.where(acceptance.path >= 0, acceptance.path, place)
    return acceptance, source, begin + place


def _move(cache: Tensor, source: Tensor, target: Tensor, batch_dim: int) -> None:
    """Rows `source` `[B, S]` of `cache` to `target`: everything is read before it is written."""
    batch = torch.arange(source.shape[0], device=source.device).unsqueeze(1)
    rows_first = cache.movedim(batch_dim, 0).movedim(-2, 1)  # [B, N, ...]
    rows_first[batch, target] = rows_first[batch, source]


def _finish(arguments: Arguments, acceptance: Acceptance) -> tuple[Acceptance, Tensor]:
    batch = torch.arange(acceptance.path.shape[0], device=acceptance.path.device).unsqueeze(1)
    path = acceptance.path.clamp(min=0).long()
    hidden = torch.cat([states[batch, path] for states in arguments["states"]], -1)
    hidden = torch.where((acceptance.path >= 0).unsqueeze(-1), hidden, 0)
    arguments["prefix_lens"] += acceptance.accept_length + 1
    return acceptance, hidden
