"""Booleans of several requests packed into bytes, each request from a byte of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.integrations.arguments import FLAGS, INTEGERS, check, refuse


def segment_packbits(
    x: Tensor, input_indptr: Tensor, output_indptr: Tensor, y: Tensor, batch_size: int
) -> None:
    """Pack each segment of `x` into bytes of `y`, the first boolean in the lowest bit.

    Args:
        x: `[R]` bool or uint8, segment after segment; nonzero is a set bit.
        input_indptr: `[B + 1]` int32 or int64: segment b is x from `input_indptr[b]` up to
            `input_indptr[b + 1]`.
        output_indptr: `[B + 1]` likewise, where its bytes go in `y`.
        y: uint8, one row. Written: ceil(length / 8) bytes a segment, no further than the next
            segment's; bits past the segment are 0, all other bytes stay as they were.
        batch_size: B.

    Raises:
        ValueError: wrong shape. TypeError: wrong dtype or device. Values are not checked: what lies
            outside of `x` counts as 0, and nothing is written outside of `y`.
    """
    op, device = "segment_packbits", x.device
    if batch_size < 0:
        refuse(op, "batch_size", "not negative", batch_size)
    check(op, "x", x, [-1], FLAGS, device)
    check(op, "y", y, [-1], torch.uint8, device)
    check(op, "input_indptr", input_indptr, [batch_size + 1], INTEGERS, device)
    check(op, "output_indptr", output_indptr, [batch_size + 1], INTEGERS, device)
    if batch_size == 0 or x.numel() == 0 or y.numel() == 0:
        return
    begins, ends = output_indptr.long().contiguous(), input_indptr.long()
    byte = torch.arange(y.numel(), device=device)
    # The last segment that begins at or before the byte; empty ones are passed over.
    segment = torch.searchsorted(begins, byte, right=True) - 1
    is_inside = (segment >= 0) & (segment < batch_size)
    segment = segment.clamp(0, batch_size - 1)
    place = (ends[segment] + 8 * (byte - begins[segment]))[:, None] + torch.arange(8, device=device)
    stop = ends[segment + 1].clamp(max=x.numel())[:, None]
    is_bit = (place >= 0) & (place < stop)
    bits = (x[place.clamp(0, x.numel() - 1)] != 0) & is_bit
    weight = 1 << torch.arange(8, device=device)
    packed = (bits * weight).sum(-1).to(torch.uint8)
    is_written = is_inside & (place[:, 0] < stop[:, 0])
    y.copy_(torch.where(is_written, packed, y))
