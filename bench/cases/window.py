"""Anchored window attention over whole sequences: what a draft is trained with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

import sparrow_kernels
from bench.case import Arguments, Case, Way
from bench.peers import flex, sdpa
from bench.selection import Selection
from bench.shapes import MODELS


@cache
def _anchor_list(length: int, percent: int, layout: str) -> tuple[bool, ...]:
    """Which positions are anchors: scattered at random, or in two runs as prompts are."""
    count = length * percent // 100
    mask = torch.zeros(length, dtype=torch.bool)
    if layout == "scattered":
        mask[torch.randperm(length, generator=torch.Generator().manual_seed(7))[:count]] = True
    else:
        mask[: count // 2] = True
        mask[length // 2 : length // 2 + count - count // 2] = True
    return tuple(mask.tolist())


@cache
def seen_pairs(length: int, window: int, percent: int, layout: str) -> int:
    """Pairs of a row and a slot that it sees, of one head."""
    pairs = 0
    anchors_before = 0  # of those that the window has left behind
    anchors = _anchor_list(length, percent, layout)
    for row in range(length):
        if row - window >= 0:
            anchors_before += anchors[row - window]
        pairs += anchors_before + min(row + 1, window)
    return pairs


@dataclass(frozen=True)
class AnchoredWindow(Case):
    """`passes` forward, or both: forward and all three gradients."""

    op = "anchored_window_attention"
    CHOICES = {"layout": ("scattered", "clustered"), "passes": ("forward", "both")}
    dtype: torch.dtype = torch.float32
    model: str = "qwen2.5-vl-7b"
    length: int = 16_384
    window: int = 256
    percent: int = 5
    layout: str = "scattered"
    passes: str = "both"

    def contradiction(self) -> str | None:
        return "percent must be at most 100" if self.percent > 100 else None

    def bytes(self) -> int:
        model, element = MODELS[self.model], self.dtype.itemsize
        query = model.heads * self.length * model.head_dim * element
        key = model.kv_heads * self.length * model.head_dim * element
        forward = 2 * query + 2 * key + self.length
        # Read again: query, key, value, out, its gradient; written: three gradients.
        return forward if self.passes == "forward" else forward + 4 * query + 4 * key

    def pairs(self) -> int:
        pairs = seen_pairs(self.length, self.window, self.percent, self.layout)
        return MODELS[self.model].heads * pairs

    def flops(self) -> int:
        products = 2 if self.passes == "forward" else 7  # scores, out; scores, dP, dV, dK, dQ
        return products * 2 * MODELS[self.model].head_dim * self.pairs()

    def exps(self) -> int:
        return self.pairs() * (1 if self.passes == "forward" else 2)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        model = MODELS[self.model]
        generator = torch.Generator(device=device).manual_seed(seed)

        def rows(heads: int) -> Tensor:
            shape = (1, heads, self.length, model.head_dim)
            return torch.randn(shape, generator=generator, device=device).to(self.dtype)

        needs_grad = self.passes != "forward"
        anchors = _anchor_list(self.length, self.percent, self.layout)
        return {
            "query": rows(model.heads).requires_grad_(needs_grad),
            "key": rows(model.kv_heads).requires_grad_(needs_grad),
            "value": rows(model.kv_heads).requires_grad_(needs_grad),
            "anchor_mask": torch.tensor([anchors], device=device),
            "window": self.window,
        }

    def call(self, arguments: Arguments) -> Any:
        out = sparrow_kernels.anchored_window_attention(**arguments)
        return self.differentiated(arguments, out)

    def differentiated(self, arguments: Arguments, out: Tensor) -> Any:
        """`out` alone, or with the gradients of query, key and value."""
        if self.passes == "forward":
            return out
        inputs = [arguments[name] for name in ("query", "key", "value")]
        return out.detach(), *torch.autograd.grad(out, inputs, _gradient_like(out))

    def exact(self, arguments: Arguments) -> Any:
        doubled = {
            name: value.detach().double().requires_grad_(value.requires_grad)
            if isinstance(value, Tensor) and value.dtype.is_floating_point
            else value
            for name, value in arguments.items()
        }
        with sparrow_kernels.backend("reference"):
            return self.call(doubled)

    def peers(self, device: torch.device) -> list[Way]:
        return [
            *sdpa.anchored_window(device, self.differentiated),
            flex.anchored_window(device, self.differentiated),
        ]


@cache
def _signs(size: int, device: torch.device) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(3)).to(device)


def _gradient_like(out: Tensor) -> Tensor:
    """A fixed gradient that is no constant: one would hide a wrong `delta`."""
    return _signs(out.shape[-1], out.device).to(out.dtype).expand_as(out)


KINDS = (AnchoredWindow,)


def cases(selection: Selection) -> Iterator[Case]:
    dtype = selection.dtype
    if selection.size == "smoke":
        yield AnchoredWindow(dtype, model="tiny", length=192, window=16)
        return
    lengths = {
        ("cpu", "quick"): (1_024,),
        ("cpu", "full"): (1_024, 4_096),
        ("cuda", "quick"): (16_384,),
        ("cuda", "full"): (4_096, 16_384, 32_768),
    }[selection.device, selection.size]
    model = "embedded" if selection.device == "cpu" else "qwen2.5-vl-7b"
    for length in lengths:
        for layout in ("scattered", "clustered"):
            for passes in ("forward", "both"):
                yield AnchoredWindow(
                    dtype, model=model, length=length, layout=layout, passes=passes
                )
