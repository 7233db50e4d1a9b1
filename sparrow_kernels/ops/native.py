"""Loads the package's own op library, built by CMake at install, if there is one.

The library knows nothing of Python: loading it registers `torch.ops.sparrow_native.*`, which the
op families wrap. Without it every op still works, through its plain PyTorch definition.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from sparrow_kernels.ops.registry import Op

_LIBRARY_FILE = Path(__file__).resolve().parents[1] / "libsparrow_ops.so"


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


def implement(op: Op, name: str | None = None, **conditions: Any) -> None:
    """Give `op` its native backend: `torch.ops.sparrow_native.<name>`, same arguments in order."""
    symbol = name or op.name

    @cache
    def function() -> Any:
        return getattr(torch.ops.sparrow_native, symbol).default

    def missing() -> str | None:
        reason = unavailable()
        if reason is None and not hasattr(torch.ops.sparrow_native, symbol):
            return f"the native library has no {symbol}"
        return reason

    missing = cache(missing)
    op.implement("native", lambda *args: function()(*args), available=missing, **conditions)
