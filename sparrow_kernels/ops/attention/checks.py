"""What the attention ops refuse when values are checked. Lengths are read on the host."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparrow_kernels.ops import native
from sparrow_kernels.ops.errors import refuse
from sparrow_kernels.ops.library import NATIVE
from sparrow_kernels.ops.pages import check_pages, num_slots
from sparrow_kernels.ops.values import refuse_first


def lengths_inside(op: str, prefix_lens: Tensor, rows: int, slots: int) -> list[int]:
    lengths: list[int] = prefix_lens.tolist()
    if rows > slots:
        hint = "are rows and cache in each other's place?"
        refuse(op, "key", f"of at most {slots} rows, the slots of key_cache", rows, hint)
    for b, length in enumerate(lengths):
        if not 0 <= length <= slots - rows:
            room = f"0..{slots - rows}: {rows} new rows in {slots} slots" if rows else f"0..{slots}"
            refuse(op, "prefix_lens", room, f"{length} for request {b}")
    return lengths


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
) -> None:
    """Lengths lie in the cache, starts before them, bits and anchors name slots that exist, the
    block table pages that do, words are enough for the rows, and scales and biases are any."""
    op = "tree_attention"
    scales_are_any(op, key_scale, value_scale)
    slots = num_slots(key, block_table)
    if block_table is not None:
        ends = prefix_lens + _tree_slots(ancestors)
        check_pages(op, block_table, key, prefix_starts, ends)
    lengths = lengths_inside(op, prefix_lens, 0, slots)
    if prefix_starts is not None:
        for b, (start, length) in enumerate(zip(prefix_starts.tolist(), lengths, strict=True)):
            if not 0 <= start <= length:
                refuse(op, "prefix_starts", f"in 0..prefix_len = {length}", f"{start}, request {b}")
    if 64 * ancestors.shape[2] < ancestors.shape[1] and bool(ancestors.any()):
        rows, words = ancestors.shape[1:]
        hint = "row i has a bit for its own slot i; rows that see no tree slot may have fewer"
        must_be = f"[B, T, W] with W = {(rows + 63) // 64} or more words for T = {rows}"
        refuse(op, "ancestors", must_be, f"W = {words}", hint)
    if key_bias is not None:
        _biases_below_inf(op, key_bias, prefix_starts, prefix_lens)
    for b, length in enumerate(lengths):
        if slots - length < 64 * ancestors.shape[2]:
            _bits_inside(op, ancestors[b], b, slots - length)
    if anchor_slots is not None and anchor_count is not None and anchor_rank is not None:
        _anchors_ascend(op, anchor_slots, anchor_count, anchor_rank, slots)


def _biases_below_inf(op: str, key_bias: Tensor, starts: Tensor | None, ends: Tensor) -> None:
    """Of committed slots: nobody reads the others."""
    slot = torch.arange(key_bias.shape[2], device=key_bias.device)
    is_read = slot < ends[:, None]
    if starts is not None:
        is_read &= slot >= starts[:, None]
    if key_bias.shape[0] == 1:
        is_read = is_read.any(0, keepdim=True)
    bad = is_read[:, None] & ~(key_bias < math.inf)
    refuse_first(op, "key_bias", "a number or -inf at every committed slot", key_bias, bad)


def scales_are_any(op: str, key_scale: Tensor | None, value_scale: Tensor | None) -> None:
    """Those given are positive and finite."""
    for name, scale in (("key_scale", key_scale), ("value_scale", value_scale)):
        if scale is None:
            continue
        for number in scale.flatten().tolist():
            if not 0 < number < math.inf:
                refuse(op, name, "positive and finite", number)


def _tree_slots(ancestors: Tensor) -> Tensor:
    """`[B]` int32: tree slots up to the last that some row of a request sees."""
    count = [0] * ancestors.shape[0]
    for b, rows in enumerate(ancestors.tolist()):
        for k in range(ancestors.shape[2]):
            union = 0
            for words in rows:
                union |= words[k] & 0xFFFF_FFFF_FFFF_FFFF
            if union:
                count[b] = 64 * k + union.bit_length()
    return torch.tensor(count, dtype=torch.int32, device=ancestors.device)


def _bits_inside(op: str, words: Tensor, b: int, room: int) -> None:
    for row, row_words in enumerate(words.tolist()):
        bits = sum((word & 0xFFFF_FFFF_FFFF_FFFF) << 64 * k for k, word in enumerate(row_words))
        if bits >> room:
            refuse(
                op,
                "ancestors",
                f"without bits from {room} on: behind prefix_lens[{b}] the cache has {room} slots",
                f"bit {bits.bit_length() - 1} in row {row} of request {b}",
            )


def _anchors_ascend(op: str, slots: Tensor, count: Tensor, rank: Tensor, capacity: int) -> None:
    # A call runs in every layer. What is wrong is found below, in the words of all backends.
    is_native = slots.device.type == "cpu" and native.unavailable() is None
    if is_native and NATIVE.anchors_ascend.default(slots, count, rank):
        return
    listed = slots.shape[1]
    for b, number in enumerate(count.tolist()):
        if not 0 <= number <= listed:
            refuse(op, "anchors.count", f"in 0..A = {listed}", f"{number} for request {b}")
        own = slots[b, :number].long()
        inside = number == 0 or (int(own[0]) >= 0 and int(own[-1]) < capacity)
        if not inside or bool((own.diff() <= 0).any()):
            refuse(op, "anchors.slots", f"ascending in 0..N - 1 = {capacity - 1}", own.tolist())
        at_anchors = torch.arange(number, dtype=torch.int32, device=own.device)
        if int(rank[b, -1]) != number or not torch.equal(rank[b, own], at_anchors):
            refuse(op, "anchors.rank", "the number of anchors below each slot", "another number")


def attention_mass(
    query: Tensor,
    key: Tensor,
    prefix_lens: Tensor,
    scale: float,
    block_table: Tensor | None = None,
    lse: Tensor | None = None,
) -> None:
    """Lengths lie in the cache, the block table names pages that exist, and lse has no NaN."""
    op = "attention_mass"
    if block_table is not None:
        check_pages(op, block_table, key, None, prefix_lens)
    lengths_inside(op, prefix_lens, 0, num_slots(key, block_table))
    if lse is not None:
        refuse_first(op, "lse", "a number or -inf", lse, ~(lse < math.inf))


def anchor_index(anchor_mask: Tensor, max_anchors: int) -> None:
    """No request has more anchors than fit."""
    most = int(anchor_mask.sum(1).max()) if anchor_mask.numel() else 0
    if most > max_anchors:
        refuse("anchor_index", "max_anchors", f"at least {most}, the anchors marked", max_anchors)
