"""The backend `native`: ops of the package's own library, built by CMake at install.

The library knows nothing of Python: loading it registers its ops with PyTorch (`library.NATIVE`),
which the op families wrap. Without it every op still works, through its plain PyTorch definition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops.library import NATIVE, unavailable
from sparrow_kernels.ops.registry import Op, Reason, device_type

REFUSALS = (ValueError, TypeError, RuntimeError, AttributeError)
"""What the library, or the dispatcher before it, raises before anything is written; and a failed
launch, which says so by itself."""


def takes_checks(tensor: Tensor) -> bool:
    """Whether the library can say, in one pass over a CPU's tensors, that no value is refused."""
    return tensor.device.type == "cpu" and unavailable() is None


@cache
def unavailable_on_cuda(symbol: str) -> Reason:
    """Why this native op cannot take CUDA tensors, None if it can."""

    def is_there(symbol: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NATIVE.name}::{symbol}", "CUDA")

    if is_there(symbol):
        return None
    if is_there("build_tree"):
        return "its GPU kernel is not native"
    return "built without CUDA (nvcc was missing at install, or SPARROW_BUILD_CUDA=0)"


def implement(
    op: Op,
    name: str | None = None,
    takes: Callable[..., Reason] | None = None,
    checked: Callable[..., Any] | None = None,
) -> None:
    """Give `op` its native backend: `library.NATIVE.<name>`, same arguments in order.

    `takes` and `checked` as for `Op.implement`, the latter for CPU tensors; CUDA tensors are taken
    only where the library has a kernel.
    """
    symbol = name or op.name

    @cache
    def function() -> Any:
        return getattr(NATIVE, symbol).default

    def missing() -> str | None:
        reason = unavailable()
        if reason is None and not hasattr(NATIVE, symbol):
            return f"the native library has no {symbol}"
        return reason

    def accepts(*args: Any) -> Reason:
        reason = unavailable_on_cuda(symbol) if device_type(args) == "cuda" else None
        return takes(*args) if reason is None and takes is not None else reason

    def on_cpu(*args: Any) -> Any:
        return checked(*args) if checked is not None and device_type(args) == "cpu" else None

    op.implement(
        "native",
        lambda *args: function()(*args),
        available=cache(missing),
        # A torch without CUDA has no CUDA tensors to ask about.
        takes=accepts if torch.backends.cuda.is_built() else takes,
        checked=None if checked is None else on_cpu,
    )
