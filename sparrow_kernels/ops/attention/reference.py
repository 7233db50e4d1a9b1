"""The definition of tree attention, of its anchor index and of the merge, in plain PyTorch.

Keys are taken in blocks of `_BLOCK` slots, each block's scores are computed in float32 (float64
for float64 inputs), and the blocks are put together by log-sum-exp as `merge_attention` does.
Nothing larger than one block's scores is made, and grouped heads read their KV head in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.ops.pages import num_slots

_BLOCK = 1024


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that scores and sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Slots(NamedTuple):
    """The slots of one request: rows of `[Hkv, N, D]`, or of the pages that its table names."""

    key: Tensor
    value: Tensor
    table: Tensor | None
    """`[pages]` int32; then key and value are `[num_pages, Hkv, page_size, D]`."""
    bias: Tensor | None
    """`[Hkv | 1, N]`, of the committed slots."""
    scales: tuple[Tensor | None, Tensor | None] = (None, None)
    """`[Hkv | 1]` of keys and of values: what is stored in float8 is multiplied by them."""

    @classmethod
    def of(
        cls,
        b: int,
        key: Tensor,
        value: Tensor,
        table: Tensor | None,
        bias: Tensor | None,
        key_scale: Tensor | None = None,
        value_scale: Tensor | None = None,
    ) -> Slots:
        """Those of request `b` in the tensors of a call."""

        def own(each: Tensor | None) -> Tensor | None:
            return None if each is None else each[b if each.shape[0] > 1 else 0]

        scales = own(key_scale), own(value_scale)
        if table is None:
            return cls(key[b], value[b], None, own(bias), scales)
        return cls(key, value, table[b], own(bias), scales)

    def rows(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value of `slots` `[n]`, each `[Hkv, n, D]`."""
        key, value = self._stored(slots)
        if key.element_size() > 1:
            return key, value
        both = []
        for stored, scale in zip((key, value), self.scales, strict=True):
            rows = stored.float()
            both.append(rows if scale is None else rows * scale[:, None, None])
        return both[0], both[1]

    def _stored(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        if self.table is None:
            return self.key[:, slots], self.value[:, slots]
        num_pages, _, page_size, _ = self.key.shape
        pages = self.table[slots // page_size].long().clamp(0, num_pages - 1)
        key, value = (each[pages, :, slots % page_size] for each in (self.key, self.value))
        return key.transpose(0, 1).contiguous(), value.transpose(0, 1).contiguous()

    def biases(self, slots: Tensor, length: int, dtype: torch.dtype) -> Tensor | None:
        """`[Hkv | 1, n]`, 0 for tree slots."""
        if self.bias is None:
            return None
        return torch.where(slots < length, self.bias[:, slots].to(dtype), 0.0)


class Request(NamedTuple):
    """What decides which slots the rows of one request see; lengths lie inside the cache."""

    start: int
    length: int
    words: Tensor
    """`[T, W]` int64."""
    anchors: Tensor | None
    """`[N]` bool, or None where every committed slot is seen."""
    depth: Tensor | None
    """`[T]` int32."""
    window: int

    def visible(self, slots: Tensor) -> Tensor:
        """`[T, n]` bool: which of the cache `slots` `[n]` each row sees."""
        committed = ((slots >= self.start) & (slots < self.length)).unsqueeze(0)
        if self.anchors is not None and self.depth is not None:
            distance = self.length + self.depth.long().unsqueeze(1) - slots
            committed = committed & (self.anchors[slots] | (distance < self.window))
        node = slots - self.length
        in_words = (node >= 0) & (node < 64 * self.words.shape[1])
        node = node.clamp(0, 64 * self.words.shape[1] - 1)
        bits = (self.words[:, node // 64] >> (node % 64)) & 1
        return committed | (in_words & bits.bool())


def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor,
    prefix_lens: Tensor,
    prefix_starts: Tensor | None,
    anchor_slots: Tensor | None,
    anchor_count: Tensor | None,
    anchor_rank: Tensor | None,
    window: int | None,
    depth: Tensor | None,
    scale: float,
    num_splits: int | None,
    block_table: Tensor | None = None,
    key_bias: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `sparrow_kernels.tree_attention`. Reads the lengths on the host; not for capture."""
    batch, heads, rows, _ = query.shape
    slots = num_slots(key, block_table) if key.numel() else 0
    out = query.new_zeros(query.shape)
    lse = torch.full((batch, heads, rows), -torch.inf, dtype=torch.float32, device=query.device)
    lengths = [min(max(length, 0), slots) for length in prefix_lens.tolist()]
    starts = [0] * batch if prefix_starts is None else prefix_starts.tolist()
    for b in range(batch):
        anchors = None
        if anchor_slots is not None and anchor_count is not None:
            anchors = torch.zeros(slots, dtype=torch.bool, device=query.device)
            given = anchor_slots[b, : max(int(anchor_count[b]), 0)].long()
            anchors[given[(given >= 0) & (given < slots)]] = True
        request = Request(
            min(max(starts[b], 0), lengths[b]),
            lengths[b],
            ancestors[b],
            anchors,
            None if depth is None else depth[b],
            window or 0,
        )
        own = Slots.of(b, key, value, block_table, key_bias, key_scale, value_scale)
        out[b], lse[b] = _attend(query[b], own, slots, request, scale)
    return out, lse


def _attend(
    query: Tensor, cache: Slots, capacity: int, request: Request, scale: float
) -> tuple[Tensor, Tensor]:
    """One request: query `[Hq, T, D]`."""
    end = min(capacity, request.length + 64 * request.words.shape[1])
    dtype = accumulation_dtype(query.dtype)
    running = torch.zeros_like(query, dtype=dtype)
    running_lse = torch.full_like(query[..., 0], -torch.inf, dtype=dtype)
    for first in range(request.start, end, _BLOCK):
        slots = torch.arange(first, min(first + _BLOCK, end), device=query.device)
        visible = request.visible(slots)
        seen = visible.any(0)
        bias = cache.biases(slots, request.length, dtype)
        if bias is not None:
            seen &= (bias != -torch.inf).any(0)
            bias = bias[:, seen]
        # What no row sees may hold NaN, and 0 * NaN is NaN: only the seen slots are read.
        slots = slots[seen]
        if slots.numel() == 0:
            continue
        part, part_lse = _block(query, *cache.rows(slots), visible[:, seen], scale, bias)
        running, running_lse = _merge([running, part], [running_lse, part_lse])
    return running.to(query.dtype), running_lse.float()


def _block(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor,
    scale: float,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of query `[Hq, T, D]` to one block `[Hkv, n, D]` under visible `[T, n]` and, for
    what there is, a bias `[Hkv | 1, n]`."""
    heads, rows, head_dim = query.shape
    dtype = accumulation_dtype(query.dtype)
    grouped = query.reshape(key.shape[0], -1, head_dim).to(dtype)
    if bias is not None:
        # What one head has lost, another may see. 0 * NaN is NaN here as well.
        lost = (bias == -torch.inf).unsqueeze(-1)
        key, value = key.masked_fill(lost, 0.0), value.masked_fill(lost, 0.0)
    scores = (grouped @ key.to(dtype).transpose(-1, -2)) * scale
    if bias is not None:
        scores = scores + bias.unsqueeze(1)
    scores = scores.view(heads, rows, -1).masked_fill(~visible, -torch.inf)
    weights, total, lse = softmax_parts(scores)
    out = weights.view(*grouped.shape[:2], -1) @ value.to(dtype)
    return out.view(heads, rows, head_dim) / total, lse.squeeze(-1)


def softmax_parts(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights over the last dim, their sum `[..., 1]` to divide by, and the log-sum-exp `[..., 1]`.

    A row of -inf has weights 0, a divisor of 1 and log-sum-exp -inf.
    """
    highest = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = (scores - highest).exp()
    total = weights.sum(-1, keepdim=True)
    return weights, total.masked_fill(total == 0, 1.0), highest + total.log()


def _merge(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Weight each part by its share of the total mass; a part without mass is not read."""
    highest = lses[0]
    for part in lses[1:]:
        highest = torch.maximum(highest, part)
    finite = highest.clamp(min=torch.finfo(highest.dtype).min)
    out, total = torch.zeros_like(outs[0]), torch.zeros_like(highest)
    for part, part_lse in zip(outs, lses, strict=True):
        mass = (part_lse - finite).exp()
        total += mass
        out += torch.where((mass > 0).unsqueeze(-1), part * mass.unsqueeze(-1), 0.0)
    return out / total.masked_fill(total == 0, 1.0).unsqueeze(-1), highest + total.log()


def merge_attention(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    """See `sparrow_kernels.merge_attention`."""
    dtype = accumulation_dtype(outs[0].dtype)
    out, lse = _merge([part.to(dtype) for part in outs], [part.to(dtype) for part in lses])
    return out.to(outs[0].dtype).contiguous(), lse.float().contiguous()


def anchor_index(anchor_mask: Tensor, max_anchors: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `sparrow_kernels.anchor_index`. Never leaves the device, so it can be captured."""
    batch, slots = anchor_mask.shape
    device = anchor_mask.device
    rank = torch.zeros((batch, slots + 1), dtype=torch.int32, device=device)
    torch.cumsum(anchor_mask, 1, dtype=torch.int32, out=rank[:, 1:])
    kept = anchor_mask & (rank[:, :-1] < max_anchors)
    # One column more than is returned takes the slots that are no anchors.
    column = torch.where(kept, rank[:, :-1], max_anchors).long()
    listed = torch.full((batch, max_anchors + 1), slots, dtype=torch.int32, device=device)
    every_slot = torch.arange(slots, dtype=torch.int32, device=device).expand(batch, slots)
    listed.scatter_(1, column, every_slot)
    rank = rank.clamp(max=max_anchors)
    return listed[:, :max_anchors].contiguous(), rank[:, -1].contiguous(), rank
