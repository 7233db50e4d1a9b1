"""Loads the package's own op library, built by CMake at install, if there is one.

The library knows nothing of Python: loading it registers `torch.ops.sparrow_native.*`, which the
op families wrap. Without it every op still works, through its plain PyTorch definition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops.registry import Op, Reason, device_type

_LIBRARY_FILE = Path(__file__).resolve().parents[1] / "libsparrow_ops.so"
REFUSALS = (ValueError, TypeError, RuntimeError, AttributeError)
"""What the library, or the dispatcher before it, raises before anything is written; and a failed
launch, which says so by itself."""


@cache
def unavailable() -> str | None:
    """Why the native library cannot be used, None once it is loaded."""
    if not _LIBRARY_FILE.exists():
        return "built without native code (a C++ compiler was missing, or SPARROW_BUILD_NATIVE=0)"
    try:
        torch.ops.load_library(str(_LIBRARY_FILE))
    except OSError as error:
        return f"{_LIBRARY_FILE.name} does not load: {error}"
    return None


def takes_checks(tensor: Tensor) -> bool:
    """Whether the library can say, in one pass over a CPU's tensors, that no value is refused."""
    return tensor.device.type == "cpu" and unavailable() is None


@cache
def unavailable_on_cuda(symbol: str) -> Reason:
    """Why this native op cannot take CUDA tensors, None if it can."""

    def is_there(symbol: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"sparrow_native::{symbol}", "CUDA")

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
    """Give `op` its native backend: `torch.ops.sparrow_native.<name>`, same arguments in order.

    `takes` and `checked` as for `Op.implement`, the latter for CPU tensors; CUDA tensors are taken
    only where the library has a kernel.
    """
    symbol = name or op.name

    @cache
    def function() -> Any:
        return getattr(torch.ops.sparrow_native, symbol).default

    def missing() -> str | None:
        reason = unavailable()
        if reason is None and not hasattr(torch.ops.sparrow_native, symbol):
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
