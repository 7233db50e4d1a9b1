"""The caller's tensors: what is asked of them, and how they are written without reading them back.

A write that depends on a condition on the device must not become a boolean index: that would wait
for the device to learn how many elements there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

INTEGERS = (torch.int32, torch.int64)
FLAGS = (torch.bool, torch.uint8)


def refuse(op: str, argument: str, must_be: str, got: object, hint: str = "") -> NoReturn:
    """Raise the `ValueError` of an argument that cannot be taken."""
    raise ValueError(_message(op, argument, must_be, got, hint))


def _message(op: str, argument: str, must_be: str, got: object, hint: str = "") -> str:
    return f"{op}: {argument} must be {must_be}, got {got}" + (f" ({hint})" if hint else "")


def check(
    op: str,
    argument: str,
    value: Tensor,
    shape: Sequence[int],
    dtypes: torch.dtype | tuple[torch.dtype, ...],
    device: torch.device,
) -> None:
    """`value` has this shape (-1: any size), one of these dtypes, and lies on `device`."""
    _check_kind(op, argument, value, dtypes, device)
    fits = value.dim() == len(shape) and all(
        wanted in (-1, size) for wanted, size in zip(shape, value.shape, strict=True)
    )
    if not fits:
        names = ["any" if size == -1 else str(size) for size in shape]
        refuse(op, argument, f"[{', '.join(names)}]", list(value.shape))


def flat(
    op: str,
    argument: str,
    value: Tensor,
    elements: int,
    dtypes: torch.dtype | tuple[torch.dtype, ...],
    device: torch.device,
) -> Tensor:
    """A buffer as one row of its first `elements` elements; it may hold more."""
    _check_kind(op, argument, value, dtypes, device)
    if not value.is_contiguous():
        refuse(op, argument, "contiguous, as it is written in place", list(value.stride()))
    if value.numel() < elements:
        refuse(op, argument, f"of at least {elements} elements", f"{value.numel()}")
    return value.view(-1)[:elements]


def _check_kind(
    op: str,
    argument: str,
    value: object,
    dtypes: torch.dtype | tuple[torch.dtype, ...],
    device: torch.device,
) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(_message(op, argument, "a tensor", type(value).__name__))
    allowed = (dtypes,) if isinstance(dtypes, torch.dtype) else dtypes
    if value.dtype not in allowed:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(_message(op, argument, names, str(value.dtype).removeprefix("torch.")))
    if value.device != device:
        raise TypeError(_message(op, argument, f"on {device}", value.device))


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
