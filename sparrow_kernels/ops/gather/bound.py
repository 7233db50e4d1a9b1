"""Lists of layers that are bound once, so that a step's commit does not read them anew.

The native library keeps the tensors under a number and looks in every call whether each still lies
where it did: one that was resized, or set to other memory, is found and read anew. To everybody
else (a compiled graph, another backend, autograd) they are the tuples of tensors that they are.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from sparrow_kernels.ops import env, memory, native
from sparrow_kernels.ops.errors import Size
from sparrow_kernels.ops.gather.arguments import check_caches
from sparrow_kernels.ops.library import NATIVE
from sparrow_kernels.ops.registry import Op, nobody_watches
from sparrow_kernels.ops.transforms import mark_written

Found = tuple[int, bool]
"""The number of bound caches, and whether their call is to check values."""


class BoundLayers(tuple[Tensor, ...]):
    """The keys or the values of every layer, bound together; made by `bind_caches`."""

    caches: _Caches | None = None
    """Shared by the two; None without the native library."""

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return tuple, (list(self),)  # a copy holds other tensors: it is bound to nothing


class _Caches:
    """The number under which the native library keeps a pair of lists, as long as this lives."""

    def __init__(self, keys: list[Tensor], values: list[Tensor]) -> None:
        self.number = NATIVE.bind_caches.default(keys, values)
        weakref.finalize(self, _let_go, self.number).atexit = False


def _let_go(number: int) -> None:
    with _disable_current_modes():  # a tensor may end while a graph is traced
        NATIVE.unbind_caches.default(torch.empty(0, device="cpu"), number)


def bind_caches(
    keys: Sequence[Tensor], values: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Bind the caches of all layers once, for the commits of many steps.

    What comes back goes where the lists went, in `compact_cache_`, `commit_path_` and
    `commit_tree_`, which then cost what they move and little more. It holds the tensors alive. Bind
    anew when the caches move to other tensors.

    Args:
        keys, values: L caches each, `[B, Hkv, N, D]` or, for a block table, `[num_pages, Hkv,
            page_size, D]`, of one shape, strides and dtype.

    Returns:
        `keys` and `values`, as tuples that know each other.

    Raises:
        ValueError: wrong shape or strides, or no layer at all; with value checks on also caches
            that share memory.
        TypeError: wrong dtype or device.

    Equivalent to:

    >>> keys, values = [torch.randn(1, 2, 9, 4)], [torch.randn(1, 2, 9, 4)]
    >>> bound_keys, bound_values = bind_caches(keys, values)
    >>> all(a is b for a, b in zip((*keys, *values), (*bound_keys, *bound_values)))
    True
    """
    op = "bind_caches"
    sizes: dict[str, Size] = {}
    first = keys[0] if isinstance(keys, (list, tuple)) and keys else None
    device = first.device if isinstance(first, Tensor) else torch.device("cpu")
    key_layers, value_layers = check_caches(op, keys, values, sizes, device)
    if nobody_watches((key_layers, value_layers)) and env.are_checked(device.type):
        memory.check(op, ("keys", "values"), (key_layers, value_layers), (0, 1))
    bound = BoundLayers(key_layers), BoundLayers(value_layers)
    if _can_be_kept(*key_layers, *value_layers):
        bound[0].caches = bound[1].caches = _Caches(key_layers, value_layers)
    return bound


def _can_be_kept(*layers: Tensor) -> bool:
    """Whether the native library takes the tensors: it has their device, and they have memory."""
    if torch.compiler.is_compiling() or native.unavailable() is not None:
        return False
    device = layers[0].device.type
    known = device == "cpu" or (
        device == "cuda" and native.unavailable_on_cuda("bind_caches") is None
    )
    return known and all(type(each) is Tensor and not each.requires_grad for each in layers)


def bound_number(
    op: Op,
    first: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    states: Sequence[Tensor] = (),
) -> Found | None:
    """The number of bound caches and whether to check values; None where lists are to be handed on.

    `first` is a tensor of the call; states may ask for a derivative. A check on a GPU is Python's.
    """
    # Each line here is a fair share of what is left of a call.
    if torch.compiler.is_dynamo_compiling():
        return None
    if type(keys) is not BoundLayers or type(values) is not BoundLayers or keys is values:
        return None
    caches = keys.caches
    if caches is None or values.caches is not caches or not nobody_watches((first, states)):
        return None
    if torch.is_grad_enabled():  # a graph may have saved one of them
        mark_written(list(keys) + list(values))
    if env.current_backend() == "reference":
        return None
    if first.is_cpu:
        return caches.number, env.are_checked("cpu")
    device = first.device.type
    if env.are_checked(device) or native.unavailable_on_cuda(op.name) is not None:
        return None
    return caches.number, False
