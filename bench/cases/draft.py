"""A draft that shares a cache with a clip: attention to anchors and a window, never to the clip.

Its time should not depend on how long the clip is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

import sparrow_kernels
from bench.case import Arguments, Case, Way
from bench.cases.attention import TreeAttention
from bench.peers import flex, gathered, sdpa
from bench.selection import Selection
from bench.shapes import MODELS, parents_tensor, tree_depths, words


@dataclass(frozen=True)
class AnchoredTreeAttention(Case):
    """Half of the anchors before the clip, as a system prompt, half after it, as a question."""

    op = "tree_attention"
    dtype: torch.dtype = torch.float32
    model: str = "qwen2.5-vl-7b"
    visual: int = 25_000
    anchors: int = 300
    window: int = 128
    nodes: int = 8
    batch: int = 1

    @property
    def prefix(self) -> int:
        return self.visual + self.anchors

    def anchor_slots(self) -> list[int]:
        before = self.anchors // 2
        return [*range(before), *range(before + self.visual, self.prefix)]

    def seen_slots(self) -> list[set[int]]:
        """The committed slots that each node sees."""
        anchors = set(self.anchor_slots())
        begins = (max(self.prefix + d - self.window + 1, 0) for d in tree_depths(self.nodes))
        return [anchors | set(range(begin, self.prefix)) for begin in begins]

    def bytes(self) -> int:
        model, element = MODELS[self.model], self.dtype.itemsize
        seen = len(set().union(*self.seen_slots())) + self.nodes
        cache = 2 * model.kv_heads * seen * model.head_dim
        rows = 2 * model.heads * self.nodes * model.head_dim
        indices = 8 * self.nodes * words(self.nodes) + 4 * (self.anchors + self.nodes + 4)
        return self.batch * (element * (cache + rows) + indices)

    def pairs(self) -> int:
        seen = sum(map(len, self.seen_slots())) + sum(tree_depths(self.nodes)) + self.nodes
        return self.batch * MODELS[self.model].heads * seen

    def flops(self) -> int:
        return 4 * MODELS[self.model].head_dim * self.pairs()

    def exps(self) -> int:
        return self.pairs()

    def summands(self) -> float:
        return 1.0  # values are standard normal

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        whole = TreeAttention(self.dtype, self.model, self.prefix, self.nodes, self.batch)
        plain = whole.arguments(device, seed)
        mask = torch.zeros(self.batch, plain["key"].shape[2], dtype=torch.bool, device=device)
        mask[:, self.anchor_slots()] = True
        layout = sparrow_kernels.build_tree(parents_tensor(self.nodes, self.batch, device))
        return plain | {
            "anchors": sparrow_kernels.anchor_index(mask, self.anchors),
            "window": self.window,
            "depth": layout.depth,
        }

    def peers(self, device: torch.device) -> list[Way]:
        return [
            *sdpa.anchored_tree_attention(device, self.prefix),
            gathered.anchored_tree_attention(self.prefix),
            flex.anchored_tree_attention(device, self.prefix),
        ]


KINDS = (AnchoredTreeAttention,)


def cases(selection: Selection) -> Iterator[Case]:
    dtype = selection.dtype
    if selection.size == "smoke":
        yield AnchoredTreeAttention(dtype, model="tiny", visual=200, anchors=20, window=16)
        return
    model = "embedded" if selection.device == "cpu" else "qwen2.5-vl-7b"
    for visual in (500, 4_000, 25_000):
        yield AnchoredTreeAttention(dtype, model=model, visual=visual)
    # The same draft without anchors: it reads the whole cache.
    yield TreeAttention(dtype, model=model, prefix=25_300, nodes=8)
    if selection.size == "full":
        yield AnchoredTreeAttention(dtype, model=model, visual=128_000)
        yield AnchoredTreeAttention(dtype, model=model, batch=8)
