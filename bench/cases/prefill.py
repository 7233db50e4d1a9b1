"""Causal attention over a whole prompt, which most of a prefill is: how far PyTorch's kernel, the
one the language model calls, and ours stay behind the machine's matmul rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.case import Arguments, Call, Case, Way
from bench.selection import Selection
from bench.shapes import MODELS


@dataclass(frozen=True)
class CausalPrefill(Case):
    """`anchored_window_attention` without anchors, under a window as long as the prompt."""

    op = "anchored_window_attention"
    dtype: torch.dtype = torch.float32
    model: str = "embedded"
    length: int = 4_096

    def bytes(self) -> int:
        model = MODELS[self.model]
        rows = 2 * (model.heads + model.kv_heads) * self.length
        return rows * model.head_dim * self.dtype.itemsize

    def exps(self) -> int:
        return MODELS[self.model].heads * self.length * (self.length + 1) // 2

    def flops(self) -> int:
        return 4 * MODELS[self.model].head_dim * self.exps()

    def summands(self) -> float:
        return 1.0  # values are standard normal

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        model = MODELS[self.model]
        generator = torch.Generator(device=device).manual_seed(seed)

        def rows(heads: int) -> Tensor:
            shape = (1, heads, self.length, model.head_dim)
            return torch.randn(shape, generator=generator, device=device).to(self.dtype)

        return {
            "query": rows(model.heads),
            "key": rows(model.kv_heads),
            "value": rows(model.kv_heads),
            "anchor_mask": torch.zeros(1, self.length, dtype=torch.bool, device=device),
            "window": self.length,
        }

    def peers(self, device: torch.device) -> list[Way]:
        return [Way("sdpa, causal", False, _causal)]


def _causal(arguments: Arguments) -> Call:
    query, key, value = (arguments[name] for name in ("query", "key", "value"))
    return lambda: scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


KINDS = (CausalPrefill,)


def cases(selection: Selection) -> Iterator[Case]:
    dtype = selection.dtype
    if selection.size == "smoke":
        yield CausalPrefill(dtype, model="tiny", length=96)
    elif selection.device == "cpu":  # a GPU's prefill is not ours
        yield CausalPrefill(dtype, length=4_096)
        yield CausalPrefill(dtype, model="qwen2.5-vl-7b", length=1_024)
