"""Under which names operators are registered, and how the native ones get into the process.

All that differs where these files are no installed package but a kernel of the Hugging Face Hub,
whose form has another file in this place (`hub/`, made whole by `build_hub.py`): versions share a
process there, each in a namespace of its own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

NAMESPACE, KIND = "sparrow", "DEF"
PREFIX = ""  # of each op's name in NAMESPACE

NATIVE = torch.ops.sparrow_native
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
