"""The package's environment switches, read once, when the first op is looked up, and their scoped
overrides.

`SPARROW_BACKEND` names the backend to use for the ops that have it; `SPARROW_CHECK` turns the
value checks on (1) or off (0). Ops read both when they *run*, never while `torch.compile` traces
them, so a compiled graph follows a later change. `SPARROW_AUTOTUNE=1` lets Triton ops time several
tile sizes at the first call of a shape on a GPU, instead of taking those of their table.
`SPARROW_WGMMA` lets Triton's kernels use a warpgroup's products (1) or not (0); without it the
installed triton decides, see `ops/fences.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

BACKENDS = ("auto", "native", "triton", "torch", "reference")


def _refuse_in_graphs(name: str) -> None:
    """A graph holds ops, not what this thread has chosen; they ask for that when they run."""
    if torch.compiler.is_dynamo_compiling():
        raise RuntimeError(
            f"{name}: must be used outside the compiled function, around its call: ops follow it"
            " when they run"
        )


def _backend_from_environment() -> str:
    name = os.environ.get("SPARROW_BACKEND", "auto").strip().lower() or "auto"
    if name not in BACKENDS:
        raise ValueError(f"SPARROW_BACKEND must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def _switch_from_environment(name: str) -> bool | None:
    value = os.environ.get(name, "").strip()
    if value not in ("", "0", "1"):
        raise ValueError(f"{name} must be 0 or 1, got {value!r}")
    return None if value == "" else value == "1"


_backend: ContextVar[str] = ContextVar("sparrow_backend", default=_backend_from_environment())
_checks: ContextVar[bool | None] = ContextVar(
    "sparrow_checks", default=_switch_from_environment("SPARROW_CHECK")
)
_autotune = _switch_from_environment("SPARROW_AUTOTUNE") is True
_warpgroup_products = _switch_from_environment("SPARROW_WGMMA")


def autotune() -> bool:
    """Whether `SPARROW_AUTOTUNE=1`."""
    return _autotune


def warpgroup_products() -> bool | None:
    """`SPARROW_WGMMA`, None where it is not set."""
    return _warpgroup_products


def current_backend() -> str:
    """The backend asked for: one of `BACKENDS`."""
    return _backend.get()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Use the backend `name` inside the block, for the ops that have it; others go as under auto.

    It holds in this thread, and in asyncio tasks begun inside the block. Other threads, those of
    a pool and a `DataLoader`'s included, do not see it: enter it there, run the call in
    `contextvars.copy_context()`, or set SPARROW_BACKEND, which reaches all. A backward runs with
    the backend its forward had.

    Raises `ValueError` for a name that is not one of auto, native, triton, torch, reference, and
    `RuntimeError` inside a function compiled with `fullgraph=True`: enter it around the call of
    that function, whose ops ask for their backend when they run.
    """
    _refuse_in_graphs("backend")
    if name not in BACKENDS:
        raise ValueError(f"backend: name must be one of {', '.join(BACKENDS)}, got {name!r}")
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)


def values_are_checked(device_type: str) -> bool:
    """Whether ops on this kind of device check values: `SPARROW_CHECK`, else yes on a CPU only.

    On a GPU the check costs a synchronisation, so it is off unless asked for.

    Raises `RuntimeError` inside a function compiled with `fullgraph=True`, as it holds where an op
    runs.
    """
    _refuse_in_graphs("values_are_checked")
    return are_checked(device_type)


def are_checked(device_type: str) -> bool:
    """`values_are_checked`, for ops: they ask when they run, and know that they do."""
    chosen = _checks.get()
    return device_type == "cpu" if chosen is None else chosen


@contextmanager
def checks(enabled: bool) -> Iterator[None]:
    """Turn the value checks of all ops on or off inside the block.

    It reaches what `backend` reaches: this thread, and no other. SPARROW_CHECK reaches all.

    Raises `TypeError` for anything but a bool, and `RuntimeError` inside a function compiled with
    `fullgraph=True`: enter it around the call.
    """
    _refuse_in_graphs("checks")
    if not isinstance(enabled, bool):
        raise TypeError(f"checks: enabled must be True or False, got {enabled!r}")
    token = _checks.set(enabled)
    try:
        yield
    finally:
        _checks.reset(token)
