"""Verifying a tree against a long prefix: the package's main kernel, and what goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

import sparrow_kernels
from bench.case import Arguments, Case, Way
from bench.peers import flashinfer, flex, sdpa
from bench.selection import Selection
from bench.shapes import MODELS, parents_tensor, seen_tree_slots, words


@dataclass(frozen=True)
class TreeAttention(Case):
    """Every row sees the whole prefix and its ancestors."""

    op = "tree_attention"
    dtype: torch.dtype = torch.float32
    model: str = "qwen2.5-vl-7b"
    prefix: int = 25_600
    nodes: int = 30
    batch: int = 1

    def bytes(self) -> int:
        model, element = MODELS[self.model], self.dtype.itemsize
        cache = 2 * model.kv_heads * (self.prefix + self.nodes) * model.head_dim
        rows = 2 * model.heads * self.nodes * model.head_dim
        return self.batch * (element * (cache + rows) + 8 * self.nodes * words(self.nodes) + 4)

    def pairs(self) -> int:
        """Pairs of a query row and a slot that it sees, over all heads and requests."""
        seen = self.nodes * self.prefix + seen_tree_slots(self.nodes)
        return self.batch * MODELS[self.model].heads * seen

    def flops(self) -> int:
        return 4 * MODELS[self.model].head_dim * self.pairs()

    def exps(self) -> int:
        return self.pairs()

    def summands(self) -> float:
        return 1.0  # values are standard normal

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        model = MODELS[self.model]
        generator = torch.Generator(device=device).manual_seed(seed)

        def rows(heads: int, count: int) -> torch.Tensor:
            shape = (self.batch, heads, count, model.head_dim)
            return torch.randn(shape, generator=generator, device=device).to(self.dtype)

        capacity = -(-(self.prefix + self.nodes) // 64) * 64
        layout = sparrow_kernels.build_tree(parents_tensor(self.nodes, self.batch, device))
        lengths = torch.full((self.batch,), self.prefix, dtype=torch.int32, device=device)
        return {
            "query": rows(model.heads, self.nodes),
            "key": rows(model.kv_heads, capacity),
            "value": rows(model.kv_heads, capacity),
            "ancestors": layout.ancestors,
            "prefix_lens": lengths,
        }

    def peers(self, device: torch.device) -> list[Way]:
        return [
            *sdpa.tree_attention(device, self.prefix),
            flex.tree_attention(device, self.prefix),
            *flashinfer.tree_attention(device, self.prefix, nodes=self.nodes, batch=self.batch),
        ]


@dataclass(frozen=True)
class MergeAttention(Case):
    op = "merge_attention"
    dtype: torch.dtype = torch.float32
    model: str = "qwen2.5-vl-7b"
    parts: int = 2
    nodes: int = 30
    batch: int = 8

    def bytes(self) -> int:
        model = MODELS[self.model]
        rows = self.batch * model.heads * self.nodes
        return (self.parts + 1) * rows * (model.head_dim * self.dtype.itemsize + 4)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        model = MODELS[self.model]
        generator = torch.Generator(device=device).manual_seed(seed)
        shape = (self.batch, model.heads, self.nodes, model.head_dim)
        outs = [
            torch.randn(shape, generator=generator, device=device).to(self.dtype)
            for _ in range(self.parts)
        ]
        lses = [
            torch.randn(shape[:3], generator=generator, device=device) for _ in range(self.parts)
        ]
        return {"outs": outs, "lses": lses}

    def exact(self, arguments: Arguments) -> object:
        outs = torch.stack([out.double() for out in arguments["outs"]])
        lses = torch.stack([lse.double() for lse in arguments["lses"]])
        share = lses.softmax(0).unsqueeze(-1)
        return (outs * share).sum(0), lses.logsumexp(0)

    def peers(self, device: torch.device) -> list[Way]:
        return sdpa.merge_attention()


@dataclass(frozen=True)
class AnchorIndex(Case):
    op = "anchor_index"
    HAS_ONE_DTYPE = True
    dtype: torch.dtype = torch.bool
    slots: int = 25_600
    anchors: int = 300
    batch: int = 1

    def contradiction(self) -> str | None:
        return (
            f"anchors must be at most slots = {self.slots}" if self.anchors > self.slots else None
        )

    def bytes(self) -> int:
        return self.batch * (self.slots + 4 * (self.anchors + 1 + self.slots + 1))

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(self.batch, self.slots, generator=generator).argsort(-1)
        mask = torch.zeros(self.batch, self.slots, dtype=torch.bool)
        mask.scatter_(1, order[:, : self.anchors], True)
        return {"anchor_mask": mask.to(device), "max_anchors": self.anchors}


KINDS = (TreeAttention, MergeAttention, AnchorIndex)

CELLS = tuple(product((25_600, 512, 4_096, 131_072), (30, 8, 60, 1)))
"""Prefixes and nodes at which no peer should be faster, the likeliest first."""
_SHORT = tuple(product((128,), (30, 8, 60, 1)))


def cases(selection: Selection) -> Iterator[Case]:
    dtype = selection.dtype
    if selection.size == "smoke":
        yield TreeAttention(dtype, model="tiny", prefix=300, nodes=8)
        yield MergeAttention(dtype, model="tiny", batch=1)
        yield AnchorIndex(slots=512, anchors=20)
        return
    if selection.device == "cpu":
        yield from dict.fromkeys(_on_a_cpu(selection))
    else:
        yield from _on_a_gpu(selection)
    yield MergeAttention(dtype)
    yield AnchorIndex()


def _on_a_cpu(selection: Selection) -> Iterator[Case]:
    """What the demo does; in full also the cells where no form of SDPA should be faster."""
    dtype = selection.dtype
    for prefix, nodes in product((512, 4_096, 24_064), (1, 6, 30)):
        yield TreeAttention(dtype, model="embedded", prefix=prefix, nodes=nodes)
    yield TreeAttention(dtype, prefix=4_096)
    if selection.size == "full":
        for model, (prefix, nodes) in product(("embedded", "qwen2.5-vl-7b"), (*_SHORT, *CELLS)):
            yield TreeAttention(dtype, model=model, prefix=prefix, nodes=nodes)


def _on_a_gpu(selection: Selection) -> Iterator[Case]:
    dtype = selection.dtype
    if selection.size == "quick":
        for nodes in (8, 30, 60):
            yield TreeAttention(dtype, nodes=nodes)
        yield TreeAttention(dtype, prefix=512)
        return
    for prefix, nodes in CELLS:
        yield TreeAttention(dtype, prefix=prefix, nodes=nodes)
    for nodes in (25, 48, 256):
        yield TreeAttention(dtype, nodes=nodes)
    for model in ("qwen2.5-vl-3b", "qwen2.5-vl-72b", "qwen3-vl-8b", "llava-onevision-72b"):
        yield TreeAttention(dtype, model=model)
    yield TreeAttention(torch.float16)
