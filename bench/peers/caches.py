"""Appending to the cache by tensor operations."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.case import Arguments, TorchWay, Way


def append_cache() -> list[Way]:
    return list(TorchWay(_append, "index_put").ways())


def rotate_append() -> list[Way]:
    return list(TorchWay(_rotate_append, "rotate + index_put").ways())


def _append(arguments: Arguments) -> None:
    _write(arguments, arguments["key"])


def _rotate_append(arguments: Arguments) -> Tensor:
    """As transformers rotates, in float32 and rounded once, as our op does."""
    cos, sin = (arguments[name].float().unsqueeze(1) for name in ("cos", "sin"))

    def rotated(rows: Tensor) -> Tensor:
        wide = rows.float()
        low, high = wide.chunk(2, -1)
        return (wide * cos + torch.cat((-high, low), -1) * sin).to(rows.dtype)

    _write(arguments, rotated(arguments["key"]))
    return rotated(arguments["query"])


def _write(arguments: Arguments, key: Tensor) -> None:
    batch, _, count, _ = key.shape
    row = torch.arange(count, device=key.device)
    slots = arguments["prefix_lens"].long().unsqueeze(1) + row
    request = torch.arange(batch, device=key.device).unsqueeze(1)
    arguments["key_cache"].transpose(1, 2)[request, slots] = key.transpose(1, 2)
    arguments["value_cache"].transpose(1, 2)[request, slots] = arguments["value"].transpose(1, 2)
