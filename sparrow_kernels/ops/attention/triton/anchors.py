"""Lists each request's anchors in one launch, without a look from the host.

    rank[s] = anchors below slot s;   slots[rank[s]] = s where s is an anchor

Grid: a program a request goes through its mask once, BLOCK slots at a time, with a running count.
Bytes: N of the mask, 4 (N + 1) of the rank and 4 A of the list. Bound: the latency of N / BLOCK
steps one after the other; it runs once a request, outside of the decode step.
Anchors past A are dropped; a slot is written before its place in the list can be read.
"""

# A kernel's arguments have their types from the launch.
# mypy: allow-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit(do_not_specialize=["N", "A"])
def anchor_kernel(
    mask_ptr,  # [B, N] uint8, 0 or 1
    slots_ptr,  # [B, A] int32
    count_ptr,  # [B] int32
    rank_ptr,  # [B, N + 1] int32
    mask_stride_b, mask_stride_n, slots_stride_b, rank_stride_b,
    N, A,
    BLOCK: tl.constexpr,
):  # fmt: skip
    request = tl.program_id(0).to(tl.int64)
    mask_ptr += request * mask_stride_b
    slots_ptr += request * slots_stride_b
    rank_ptr += request * rank_stride_b
    count = tl.full([], 0, tl.int32)
    for first in range(0, N, BLOCK):
        slots = first + tl.arange(0, BLOCK)
        inside = slots < N
        anchor = tl.load(mask_ptr + slots.to(tl.int64) * mask_stride_n, mask=inside, other=0)
        anchor = (anchor != 0).to(tl.int32)
        below = count + tl.cumsum(anchor, 0) - anchor
        tl.store(rank_ptr + slots, tl.minimum(below, A), mask=inside)
        tl.store(slots_ptr + below, slots, mask=(anchor != 0) & (below < A))
        count += tl.sum(anchor, 0)
    count = tl.minimum(count, A)
    tl.store(rank_ptr + N, count)
    tl.store(count_ptr + request, count)
    for first in range(count, A, BLOCK):
        places = first + tl.arange(0, BLOCK)
        tl.store(slots_ptr + places, tl.zeros([BLOCK], tl.int32) + N, mask=places < A)


def anchor_index(anchor_mask: Tensor, max_anchors: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `sparrow_kernels.anchor_index`."""
    batch, capacity = anchor_mask.shape
    slots, count, rank = (
        torch.empty(size, dtype=torch.int32, device=anchor_mask.device)
        for size in ((batch, max_anchors), (batch,), (batch, capacity + 1))
    )
    if batch == 0:
        return slots, count, rank
    with torch.cuda.device_of(anchor_mask):  # Triton launches on the current device
        anchor_kernel[(batch,)](
            anchor_mask.view(torch.uint8), slots, count, rank, *anchor_mask.stride(),
            slots.stride(0), rank.stride(0), capacity, max_anchors, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return slots, count, rank
