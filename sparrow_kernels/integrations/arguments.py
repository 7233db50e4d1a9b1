"""The caller's tensors: what is asked of them, and the one shape of a refusal.

A message reads *function: argument must be …, got … (hint)*, as those of the ops do: `ValueError`
for a wrong rank, shape or value, `TypeError` for a wrong dtype, device or kind of object. Values
are looked at where `values_are_checked`, as that waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from sparrow_kernels import values_are_checked

INTEGERS = (torch.int32, torch.int64)
FLAGS = (torch.bool, torch.uint8)


def refuse(op: str, argument: str, must_be: str, got: object, hint: str = "") -> NoReturn:
    """Raise the `ValueError` of an argument that cannot be taken."""
    raise ValueError(_message(op, argument, must_be, got, hint))


def refuse_type(op: str, argument: str, must_be: str, got: object, hint: str = "") -> NoReturn:
    """Raise the `TypeError` of an argument of the wrong kind, dtype or device."""
    raise TypeError(_message(op, argument, must_be, got, hint))


def refuse_first(op: str, argument: str, must_be: str, value: Tensor, bad: Tensor) -> None:
    """Raise for the first element of `value` where `bad` holds, if values are checked."""
    if not values_are_checked(value.device.type) or not bool(bad.any()):
        return
    where = tuple(bad.nonzero()[0].tolist())
    place = "".join(f"[{index}]" for index in where)
    refuse(op, argument, must_be, f"{argument}{place} = {value[where].item()}")


def _message(op: str, argument: str, must_be: str, got: object, hint: str = "") -> str:
    return f"{op}: {argument} must be {must_be}, got {got}" + (f" ({hint})" if hint else "")


def check(
    op: str,
    argument: str,
    value: Tensor,
    shape: Sequence[int],
    dtypes: torch.dtype | tuple[torch.dtype, ...] | None,
    device: torch.device | None = None,
) -> None:
    """`value` has this shape (-1: any size), one of these dtypes (None: any), on `device`."""
    check_kind(op, argument, value, dtypes, device)
    fits = value.dim() == len(shape) and all(
        wanted in (-1, size) for wanted, size in zip(shape, value.shape, strict=True)
    )
    if not fits:
        names = ["any" if size == -1 else str(size) for size in shape]
        refuse(op, argument, f"[{', '.join(names)}]", list(value.shape))


def check_kind(
    op: str,
    argument: str,
    value: object,
    dtypes: torch.dtype | tuple[torch.dtype, ...] | None,
    device: torch.device | None = None,
) -> None:
    """`value` is a tensor of one of these dtypes, on `device`."""
    if not isinstance(value, Tensor):
        refuse_type(op, argument, "a tensor", type(value).__name__)
    allowed = (dtypes,) if isinstance(dtypes, torch.dtype) else dtypes
    if allowed is not None and value.dtype not in allowed:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        refuse_type(op, argument, names, str(value.dtype).removeprefix("torch."))
    if device is not None and value.device != device:
        refuse_type(op, argument, f"on {device}", value.device)
