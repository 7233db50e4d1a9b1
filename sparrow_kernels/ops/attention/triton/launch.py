"""Launches a Triton kernel again without binding its arguments again.

Of what a launch costs the host, most is Triton's look at every argument for what the kernel is to
be compiled for. Here a caller names what that depends on as a key: the first call of a key goes
through Triton, later ones of it straight to the launcher of what was compiled then.
"""

# A kernel's arguments have their types from the launch.
# mypy: allow-untyped-defs
from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import driver

Grid = tuple[int, int, int]
"""Programs along each axis; at most 65,535 along the second and the third."""


class Kept(NamedTuple):
    """A launch, but for its pointers and its stream."""

    compiled: Any
    """What Triton compiled, loaded on the key's device."""
    grid: Grid
    rest: tuple[Any, ...]
    """Arguments behind the pointers."""


_KEPT: dict[Hashable, Kept] = {}
_MOST_KEPT = 4096
_ALIGNMENT = 16  # bytes, the only one that kernels are compiled for


def aligned(*tensors: Tensor | None) -> int:
    """A bit a tensor: whether its data lie where a kernel compiled for aligned data may read."""
    bits = 0
    for tensor in tensors:
        bits = 2 * bits + (tensor is not None and tensor.data_ptr() % _ALIGNMENT == 0)
    return bits


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device: makes it this one, where it is another."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def launch(
    kernel: Any,
    key: Hashable,
    pointers: tuple[Tensor | None, ...],
    prepare: Callable[[], tuple[Grid, tuple[Any, ...], dict[str, Any]]],
) -> None:
    """Launch `kernel` on `pointers`, its first arguments, on the device and stream of the present.

    `prepare` gives the programs, the other arguments in order, and the options. `key`
    says what these and the compiled kernel depend on: device, dtypes, what is None, alignment.
    """
    kept = _KEPT.get((kernel, key))
    # Whoever listens to launches, such as a profiler, is told of them by Triton itself.
    if kept is not None and not _listened_to():
        compiled = kept.compiled
        stream = driver.active.get_current_stream(driver.active.get_current_device())
        addresses = [None if each is None else each.data_ptr() for each in pointers]
        compiled.run(
            *kept.grid, stream, compiled.function, compiled.packed_metadata, None, None, None,
            *addresses, *kept.rest,
        )  # fmt: skip
        return
    grid, rest, options = prepare()
    compiled = kernel[grid](*pointers, *rest, **options)
    if all(hasattr(compiled, name) for name in ("run", "function", "packed_metadata")):
        if len(_KEPT) >= _MOST_KEPT:
            _KEPT.clear()
        _KEPT[kernel, key] = Kept(compiled, grid, rest)


def _listened_to() -> bool:
    hooks = (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook)
    return any(hook is not None and getattr(hook, "calls", True) for hook in hooks)
