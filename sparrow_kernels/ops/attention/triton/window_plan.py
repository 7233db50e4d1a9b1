"""Sort each request's slots into anchors and others, so that kernels loop over what is seen.

    rank[s]  = anchors below slot s
    order    = the anchors ascending from the front, the other slots descending behind them

Grid: one program a request; it walks the mask in blocks and carries the number of anchors so far.
It reads the mask once and writes both lists: S bytes in, 8 S bytes out, bound by latency, not by
bandwidth. A scan over several programs was left out: it would need a second launch.
Relies on a contiguous mask. The number of anchors never leaves the device: grids are made for S.
"""

from __future__ import annotations

# The arguments of a kernel are of types that only Triton knows.
# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor

PLAN_BLOCK = 2048


def plan(anchor_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of `anchor_mask` `[B, S]` bool: itself as uint8, `order` `[B, S]` and `rank` `[B, S + 1]`."""
    batch, length = anchor_mask.shape
    order = torch.empty((batch, length), dtype=torch.int32, device=anchor_mask.device)
    rank = torch.empty((batch, length + 1), dtype=torch.int32, device=anchor_mask.device)
    mask = anchor_mask.contiguous().view(torch.uint8)
    block = min(PLAN_BLOCK, max(triton.next_power_of_2(length), 16))
    plan_kernel[(batch,)](mask, order, rank, length, BLOCK=block, num_warps=8)
    return mask, order, rank


@triton.jit(do_not_specialize=["length"])
def plan_kernel(
    mask_ptr,  # [B, S] uint8
    order_ptr,  # [B, S] int32
    rank_ptr,  # [B, S + 1] int32
    length,  # S
    BLOCK: tl.constexpr,
):
    # Grid: (B,).
    request = tl.program_id(0).to(tl.int64)
    mask_ptr += request * length
    order_ptr += request * length
    rank_ptr += request * (length + 1)
    below = 0
    for first in range(0, length, BLOCK):
        slots = first + tl.arange(0, BLOCK)
        inside = slots < length
        is_anchor = tl.load(mask_ptr + slots, mask=inside, other=0).to(tl.int32)
        rank = below + tl.cumsum(is_anchor, 0) - is_anchor
        place = tl.where(is_anchor != 0, rank, length - 1 - (slots - rank))
        tl.store(order_ptr + place, slots, mask=inside)
        tl.store(rank_ptr + slots, rank, mask=inside)
        below += tl.sum(is_anchor, 0)
    tl.store(rank_ptr + length, below)
