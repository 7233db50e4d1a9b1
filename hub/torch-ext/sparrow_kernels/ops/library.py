"""Under which names operators are registered: all in the one namespace of this build.

Importing `_ops`, which kernel-builder writes, has loaded the native ops into it. The ops that pick
a backend bear the same names and stand beside them.
"""

from __future__ import annotations

from .._ops import add_op_namespace_prefix, ops

NATIVE = ops
NAMESPACE, KIND = add_op_namespace_prefix("").removesuffix("::"), "FRAGMENT"
PREFIX = "dispatched_"  # of each op's name in NAMESPACE


def unavailable() -> str | None:
    """Why the native library cannot be used: nothing, since it is there."""
    return None
