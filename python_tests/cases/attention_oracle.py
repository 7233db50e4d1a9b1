"""Attention by its definition: which slots a row sees, in plain Python, then float64 softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from sparrow_kernels.ops import native
from sparrow_kernels.ops.attention import anchor_index, tree_attention
from sparrow_kernels.ops.types import AnchorIndex
from sparrow_kernels.testing import assert_close

CPU_BACKENDS = ["reference", "torch", *([] if native.unavailable() else ["native"])]
"""Those of tree attention that this installation has on a CPU."""


def words_of(rows: list[int], num_words: int) -> list[list[int]]:
    """Rows of bits as signed 64-bit words."""
    words = [[bits >> (64 * w) & (2**64 - 1) for w in range(num_words)] for bits in rows]
    return [[word - 2**64 if word >= 2**63 else word for word in row] for row in words]


def tree_bits(parent: list[int]) -> list[int]:
    """Each node's own bit and those of its ancestors."""
    bits: list[int] = []
    for node, above in enumerate(parent):
        bits.append(1 << node | (bits[above] if above >= 0 else 0))
    return bits


@dataclass
class Case:
    """One call of tree_attention; lists hold one entry a request."""

    rows: list[list[int]]
    """The tree slots each row sees, as bits."""
    prefix_lens: list[int]
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    capacity: int = 64
    dtype: torch.dtype = torch.float32
    num_words: int = 0
    starts: list[int] | None = None
    anchors: list[set[int]] | None = None
    window: int | None = None
    depth: list[list[int]] | None = None
    seed: int = 0
    query: Tensor = field(init=False)
    key: Tensor = field(init=False)
    value: Tensor = field(init=False)

    def __post_init__(self) -> None:
        widest = max((bits.bit_length() for rows in self.rows for bits in rows), default=0)
        self.num_words = self.num_words or max(1, -(-widest // 64))
        generator = torch.Generator().manual_seed(self.seed)
        batch, num_rows = len(self.rows), len(self.rows[0]) if self.rows else 3

        def draw(heads: int, slots: int) -> Tensor:
            shape = (batch, heads, slots, self.head_dim)
            return torch.randn(shape, generator=generator).to(self.dtype)

        self.query = draw(self.heads, num_rows)
        self.key = draw(self.kv_heads, self.capacity)
        self.value = draw(self.kv_heads, self.capacity)

    def seen(self, b: int, row: int) -> list[int]:
        """The slots that a row sees, from the definition."""
        length = self.prefix_lens[b]
        start = 0 if self.starts is None else self.starts[b]
        slots = []
        for slot in range(start, length):
            if self.anchors is None:
                slots.append(slot)
            else:
                assert self.window is not None and self.depth is not None
                near = length + self.depth[b][row] - slot < self.window
                if slot in self.anchors[b] or near:
                    slots.append(slot)
        bits = self.rows[b][row]
        for j in range(bits.bit_length()):
            if bits >> j & 1 and length + j < self.capacity:
                slots.append(length + j)
        return slots

    def poisoned(self) -> Case:
        """The same with NaN in every key and value that no row sees."""
        other = replace(self)
        for b in range(len(self.rows)):
            seen = {slot for row in range(len(self.rows[b])) for slot in self.seen(b, row)}
            unseen = [slot for slot in range(self.capacity) if slot not in seen]
            for cache in (other.key, other.value):
                cache[b, :, unseen] = math.nan
        return other

    def index(self) -> AnchorIndex | None:
        if self.anchors is None:
            return None
        mask = torch.zeros(len(self.rows), self.capacity, dtype=torch.bool)
        for b, anchors in enumerate(self.anchors):
            mask[b, sorted(anchors)] = True
        return anchor_index(mask)

    def arguments(self) -> tuple[Tensor, ...]:
        words = [words_of(rows, self.num_words) for rows in self.rows]
        shape = (*self.query.shape[:1], self.query.shape[2], self.num_words)
        return (
            self.query,
            self.key,
            self.value,
            torch.tensor(words, dtype=torch.int64).view(shape),
            torch.tensor(self.prefix_lens, dtype=torch.int32),
        )

    def options(self) -> dict[str, object]:
        def int32(values: list | None) -> Tensor | None:
            return None if values is None else torch.tensor(values, dtype=torch.int32)

        return {
            "prefix_starts": int32(self.starts),
            "anchors": self.index(),
            "window": self.window,
            "depth": int32(self.depth),
        }

    def run(self, device: str = "cpu", **more: object) -> tuple[Tensor, Tensor]:
        """The op's result on a device, brought back from there."""
        arguments, options = tree_map_only(
            Tensor, lambda tensor: tensor.to(device), (self.arguments(), self.options())
        )
        out, lse = tree_attention(*arguments, **options, return_lse=True, **more)
        return out.cpu(), lse.cpu()

    def expected(self) -> tuple[Tensor, Tensor]:
        """Result and log-sum-exp in float64, row by row."""
        group = self.heads // self.kv_heads
        out = torch.zeros(self.query.shape, dtype=torch.float64)
        lse = torch.full(self.query.shape[:3], -math.inf, dtype=torch.float64)
        for b in range(len(self.rows)):
            for row in range(len(self.rows[b])):
                slots = self.seen(b, row)
                if not slots:
                    continue
                for head in range(self.heads):
                    keys = self.key[b, head // group, slots].double()
                    values = self.value[b, head // group, slots].double()
                    scores = keys @ self.query[b, head, row].double() * self.head_dim**-0.5
                    lse[b, head, row] = scores.logsumexp(0)
                    out[b, head, row] = scores.softmax(0) @ values
        return out, lse

    def rounded(self) -> tuple[Tensor, Tensor]:
        """The same from PyTorch in the case's own dtype, with a full mask."""
        if self.query.numel() == 0 or self.capacity == 0:
            # PyTorch's kernel for half precision divides by these sizes, and kills the process.
            blind = torch.full(self.query.shape[:3], -math.inf)
            return torch.zeros_like(self.query), blind
        mask = torch.zeros(len(self.rows), 1, self.query.shape[2], self.capacity, dtype=torch.bool)
        for b in range(len(self.rows)):
            for row in range(len(self.rows[b])):
                mask[b, 0, row, self.seen(b, row)] = True
        blind = ~mask.any(-1, keepdim=True)
        out = torch.nn.functional.scaled_dot_product_attention(
            self.query, self.key, self.value, mask | blind, enable_gqa=True
        )
        if self.dtype.itemsize == 2:
            # PyTorch's kernel for half precision has an approximate exponential.
            bias = torch.where(mask | blind, 0.0, -math.inf)
            lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                self.query, self.key, self.value, attn_mask=bias
            )[1]
        else:
            key = self.key.repeat_interleave(self.heads // self.kv_heads, 1).float()
            scores = self.query.float() @ key.mT * self.head_dim**-0.5
            lse = scores.masked_fill(~mask, -math.inf).logsumexp(-1)
        return out.masked_fill(blind, 0.0), lse.masked_fill(blind.squeeze(-1), -math.inf)

    def check(
        self, actual: tuple[Tensor, Tensor] | None = None, largest_score: float = 1.0
    ) -> None:
        """Hold a result, the op's own by default, to the policy."""
        results = self.run() if actual is None else actual
        exact = self.expected()
        if self.dtype == torch.float64:  # the oracle rounds as the op does
            torch.testing.assert_close(results[0], exact[0], rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(results[1], exact[1].float())
            return
        # Scores and values are drawn with deviation 1; sums of them may cancel. What a larger score
        # loses to rounding, the exponential passes on; one is a sum of products, which average 0.64
        # in size, over the root of the head dim.
        added_up = max(1.0, 0.64 * self.head_dim**0.5)
        sizes = {"out": largest_score, "lse": largest_score * added_up}
        for name, *three in zip(sizes, results, exact, self.rounded(), strict=True):
            assert_close(*three, name=name, summands=sizes[name])


def rows_of(case: Case, rows: list[int], requests: list[int]) -> Case:
    """The same rows of some requests alone, on the same caches."""
    part = replace(
        case,
        rows=[[case.rows[b][row] for row in rows] for b in requests],
        prefix_lens=[case.prefix_lens[b] for b in requests],
        starts=case.starts and [case.starts[b] for b in requests],
        anchors=case.anchors and [case.anchors[b] for b in requests],
        depth=case.depth and [[case.depth[b][row] for row in rows] for b in requests],
    )
    part.query = case.query[requests][:, :, rows]
    part.key, part.value = case.key[requests], case.value[requests]
    return part
