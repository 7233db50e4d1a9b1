"""A draft with some settings other than those it was loaded with, over the same weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.network import DraftNetwork

_BASES = (1e4, 5e5, 1e6, 5e6)
"""Of rotary embeddings: Llama 2, Llama 3, Qwen2.5, Qwen3-VL."""


@dataclass(frozen=True)
class Variant:
    """The settings of a draft that files get wrong."""

    layer_ids: tuple[int, ...] | None
    rope_theta: float
    state_first: bool
    """What the file joins, with the state before the embedding."""
    feeds_normed: bool
    norm_before_residual: bool

    @classmethod
    def of(cls, draft: SparrowDraft) -> Variant:
        """As it was loaded."""
        config = draft.config
        ids = None if config.layer_ids is None else tuple(config.layer_ids)
        return cls(
            ids,
            config.rope_theta,
            config.state_first,
            config.feeds_normed,
            config.norm_before_residual,
        )

    def with_(self, name: str, value: Any) -> Variant:
        """Another value of one setting."""
        return replace(self, **{name: value})

    def network(self, network: DraftNetwork, loaded: Variant) -> DraftNetwork:
        """`network`, which is as `loaded`, so; it shares all weights that are not moved."""
        varied = copy.copy(network)
        varied.shape = replace(
            network.shape,
            feeds_normed=self.feeds_normed,
            norm_before_residual=self.norm_before_residual,
        )
        if self.state_first != loaded.state_first:
            varied._modules = dict(network._modules)
            name = "qkv" if network.shape.paired else "fc"
            varied._modules[name] = _swapped(getattr(network, name))
        return varied


def alternatives(draft: SparrowDraft) -> dict[str, list[Any]]:
    """For each setting that this draft has, what is tried; what was loaded is among it."""
    config, loaded = draft.config, Variant.of(draft)
    found: dict[str, list[Any]] = {}
    if loaded.layer_ids is not None:
        moved = (tuple(each + by for each in loaded.layer_ids) for by in (-1, 0, 1))
        found["layer_ids"] = [
            ids for ids in moved if min(ids) >= 0 and max(ids) <= config.target_layers
        ]
    found["rope_theta"] = sorted({loaded.rope_theta, *_BASES})
    if not config.clip_queries:  # ViSpec joins twice, and was folded
        found["state_first"] = [False, True]
    if config.final_norm:
        found["feeds_normed"] = [False, True]
    if config.paired:
        found["norm_before_residual"] = [False, True]
    return found


def _swapped(linear: nn.Module) -> nn.Linear:
    """Its columns' two halves exchanged."""
    weight: Any = linear.weight
    rows, columns = weight.shape
    with torch.device("meta"):
        swapped = nn.Linear(columns, rows, bias=False)
    swapped.weight = nn.Parameter(weight.roll(columns // 2, dims=1), requires_grad=False)
    swapped.bias = linear.bias  # type: ignore[assignment]
    return swapped
