"""Flat buffers of the caller, and how they are written without reading them back.

A write that depends on a condition on the device must not become a boolean index: that would wait
for the device to learn how many elements there are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.integrations.arguments import check_kind, refuse


def flat(
    op: str,
    argument: str,
    value: Tensor,
    elements: int,
    dtypes: torch.dtype | tuple[torch.dtype, ...],
    device: torch.device,
) -> Tensor:
    """A buffer as one row of its first `elements` elements; it may hold more."""
    check_kind(op, argument, value, dtypes, device)
    if not value.is_contiguous():
        refuse(op, argument, "contiguous, as it is written in place", list(value.stride()))
    if value.numel() < elements:
        refuse(op, argument, f"of at least {elements} elements", f"{value.numel()}")
    return value.view(-1)[:elements]


def write(buffer: Tensor, index: Tensor, values: Tensor, where: Tensor) -> None:
    """`buffer[index] = values` where `where` holds and the index is in the buffer.

    `buffer` is flat; the others have one shape. Two writes to one place must agree in value. What
    must not be written is sent to the place of the first write, with its value: to its own place it
    would carry an old value, which might land after another element's new one.
    """
    if buffer.numel() == 0 or index.numel() == 0:
        return
    index, values, where = (tensor.reshape(-1) for tensor in (index, values, where))
    where = where & (index >= 0) & (index < buffer.numel())
    first = where.int().argmax().reshape(1)
    spare = index[first].clamp(0, buffer.numel() - 1)
    kept = torch.where(where[first], values[first].to(buffer.dtype), buffer[spare])
    index = torch.where(where, index, spare)
    buffer.scatter_(0, index, torch.where(where, values.to(buffer.dtype), kept))
