"""Memory that an op follows pointers into: it must be there, and what is written be nobody else's.

Asked on real tensors, and only where values are checked. Nothing here waits for a device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops.errors import refuse

Of = tuple[int, int]
"""The place of a tensor's argument, and its own in a list."""
_Place = tuple[int, int, bool, Of]
"""A tensor lies in bytes [begin, end), if not in all of them; whether it is written, and whose it
is."""
_Runs = tuple[tuple[int, int], ...]
"""A tensor's bytes, as strides and counts."""


def check(op: str, names: Sequence[str], args: Sequence[Any], written: Collection[int]) -> None:
    """Refuse tensors that outlived their storage, and shared memory that is written.

    Args:
        names: of the arguments; an argument is a tensor, a list of tensors, or neither.
        written: the places of arguments that the op writes to.
    """
    places: list[_Place] = []
    for k, value in enumerate(args):
        is_written = k in written
        for j, tensor in enumerate(_tensors(value)):
            # A step passes a hundred caches: what can be, is asked of all alike at once.
            size, width, elements_meet = _layout(tensor.shape, tensor.stride(), tensor.dtype)
            if size == 0:
                continue
            if is_written and elements_meet:
                hint = "an expanded tensor is to be read only"
                strides, must_be = list(tensor.stride()), "without elements that share memory"
                refuse(op, _name(names, args, (k, j)), must_be, f"strides {strides}", hint)
            needed, there = (
                tensor.storage_offset() * width + size,
                tensor.untyped_storage().nbytes(),
            )
            if needed > there:
                must_be = f"in a storage of {needed} bytes or more"
                refuse(op, _name(names, args, (k, j)), must_be, f"{there}", "was it freed?")
            if written:
                begin = tensor.data_ptr()
                places.append((begin, begin + size, is_written, (k, j)))
    for near in _intersecting(places):
        first = near[0][0]  # layers lie alike, each from its own beginning on
        clash = _clash(
            tuple((begin - first, written, _runs_of(args, of)) for begin, _, written, of in near)
        )
        if clash is not None:
            other, one = sorted(near[k][2:] for k in clash)
            got = f"memory of {_name(names, args, other[1])}"
            hint = "an op must not read, or write anew, what it has written"
            if len(_tensors(args[one[1][0]])) > 1:
                hint = "a cache listed twice would be moved twice"
            refuse(op, _name(names, args, one[1]), "in memory of its own", got, hint)


def check_traced(
    op: str, names: Sequence[str], args: Sequence[Any], written: Sequence[int]
) -> None:
    """Refuse to trace a call that writes to two views of one storage whose sizes are symbols.

    torch's inductor rebuilds such views from their base after the op, one from the other's bytes:
    values would become keys, and nobody be told. Which compiler will come is not known here.
    """
    seen: dict[int, Of] = {}
    for k in written:
        for j, tensor in enumerate(_tensors(args[k])):
            sizes = (*tensor.shape, *tensor.stride())
            if not any(isinstance(size, torch.SymInt) for size in sizes):
                continue
            other = seen.setdefault(tensor.untyped_storage()._cdata, (k, j))
            if other != (k, j):
                raise NotImplementedError(
                    f"{op}: {_name(names, args, (k, j))} must be in a storage of its own under"
                    f" torch.compile with dynamic sizes, got a view of that of"
                    f" {_name(names, args, other)} (torch mixes up what an op has written to two"
                    " views of one tensor: allocate them apart, or compile with dynamic=False)"
                )


def _tensors(value: Any) -> Sequence[Tensor]:
    if isinstance(value, Tensor):
        return (value,)
    return value if isinstance(value, (list, tuple)) else ()


def _name(names: Sequence[str], args: Sequence[Any], of: Of) -> str:
    name = names[of[0]]
    return name if isinstance(args[of[0]], Tensor) else f"{name}[{of[1]}]"


@lru_cache(maxsize=1024)
def _layout(
    shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype
) -> tuple[int, int, bool]:
    """Bytes from the first element to behind the last, 0 where there is none; bytes of one; and
    whether two may lie in one place, as a stride leads not past all that the shorter ones reach."""
    reach, meet = 0, False
    for stride, size in sorted(zip(strides, shape, strict=True)):
        meet |= size > 1 and stride <= reach
        reach += (size - 1) * stride
    return (0 if 0 in shape else dtype.itemsize * (reach + 1)), dtype.itemsize, meet


def _intersecting(places: list[_Place]) -> Iterator[list[_Place]]:
    """Those whose ranges meet, one of them written: rows of a slab may lie between one another."""
    end, near = 0, list[_Place]()
    for place in sorted(places):
        if place[0] >= end:
            if len(near) > 1 and any(is_written for _, _, is_written, _ in near):
                yield near
            near = []
        near.append(place)
        end = max(end, place[1])
    if len(near) > 1 and any(is_written for _, _, is_written, _ in near):
        yield near


@lru_cache(maxsize=256)
def _clash(lying: tuple[tuple[int, bool, _Runs], ...]) -> tuple[int, int] | None:
    """The first two that share a byte, where one of them is written. The caches of a model lie in
    every layer alike, and in every step as in the last: the answer is kept."""
    for (k, one), (j, other) in combinations(enumerate(lying), 2):
        if (one[1] or other[1]) and _share(other[0] - one[0], one[2], other[2]):
            return k, j
    return None


def _runs_of(args: Sequence[Any], of: Of) -> _Runs:
    tensor = _tensors(args[of[0]])[of[1]]
    return _runs(tensor.shape, tensor.stride(), tensor.dtype)


@lru_cache(maxsize=1024)
def _runs(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> _Runs:
    width = dtype.itemsize
    runs = [(1, width)]
    for stride, size in sorted(zip(strides, shape, strict=True)):
        inner, count = runs[-1]
        if stride * width == inner * count:
            runs[-1] = inner, count * size
        elif size > 1 and stride > 0:
            runs.append((stride * width, size))
    return tuple(runs)


@lru_cache(maxsize=4096)  # every two layers that lie alike ask the same
def _share(distance: int, one: _Runs, other: _Runs) -> bool:
    """Whether a byte of `one` is a byte of `other`, which begins `distance` behind it."""
    lows, highs = Counter[int](), Counter[int]()
    for stride, count in one:
        highs[stride] += count - 1
    for stride, count in other:
        lows[stride] -= count - 1
    strides = sorted(lows.keys() | highs.keys(), reverse=True)
    return _is_reached(distance, tuple((s, lows[s], highs[s]) for s in strides))


def _is_reached(distance: int, steps: tuple[tuple[int, int, int], ...]) -> bool:
    """Whether `distance` is a sum of strides, each taken low to high times."""
    if not steps:
        return distance == 0
    (stride, low, high), *inner = steps
    least = sum(s * low for s, low, _ in inner)
    most = sum(s * high for s, _, high in inner)
    first = max(low, -((most - distance) // stride))
    last = min(high, (distance - least) // stride)
    return any(_is_reached(distance - k * stride, tuple(inner)) for k in range(first, last + 1))
