"""Defines the ops of the `torch.ops.sparrow` namespace and picks a backend when one runs.

Each op has one schema, owned here, one fake for `torch.compile`, at most one check of values, and
one implementation per backend. The choice of backend is made inside the op, at run time: a
compiled graph then holds the op, not the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops import env

Reason = str | None
"""Why something cannot be done; None when it can."""

LIBRARY = torch.library.Library("sparrow", "DEF")
_OPS: dict[str, Op] = {}

# The order in which backends are tried under `auto`. A CPU always has the reference to fall back
# on; on CUDA a silent fall back to it would cost its user an afternoon, so it is not in the list.
_AUTO_ORDER = {"cpu": ("native", "torch", "reference"), "cuda": ("native", "triton")}


class _Implementation:
    """One backend's function for one op, and when it can be used."""

    def __init__(
        self, function: Callable[..., Any], available: Callable[[], Reason], takes: Callable | None
    ) -> None:
        self.function = function
        self.available = available
        self.takes = takes


class Op:
    """One operator: `define` makes it, `implement` adds a backend, calling it runs it.

    `check(*args)` raises `ValueError` for bad values (a malformed parent, a length beyond the
    cache); it runs before every backend alike, only where `env.values_are_checked`.
    """

    def __init__(self, schema: str, fake: Callable[..., Any], check: Callable | None) -> None:
        self.name = schema.split("(", 1)[0]
        self.check = check
        self.implementations: dict[str, _Implementation] = {}
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(self.name, self._run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"sparrow::{self.name}", fake, lib=LIBRARY)
        self.call = getattr(torch.ops.sparrow, self.name).default

    def __call__(self, *args: Any) -> Any:
        # Without gradients, tracing or modes the dispatcher would only come back here, and a
        # decode step calls dozens of ops.
        if _nobody_watches(args):
            return self._run(*args)
        return self.call(*args)

    def implement(
        self,
        backend: str,
        function: Callable[..., Any],
        *,
        available: Callable[[], Reason] = lambda: None,
        takes: Callable[..., Reason] | None = None,
    ) -> None:
        """Add `function` as the op's `backend`; it takes the schema's arguments in order.

        `available()` says why this machine cannot run the backend at all, `takes(*args)` why it
        cannot take this call; None means it can.
        """
        self.implementations[backend] = _Implementation(function, available, takes)

    def unavailable(self, backend: str) -> Reason:
        """Why `backend` cannot run this op on this machine, None if it can."""
        implementation = self.implementations.get(backend)
        if implementation is None:
            return "this op has no such backend"
        return implementation.available()

    def chosen(self, *args: Any) -> Callable[..., Any]:
        """The function that a call with such arguments runs now, values unchecked."""
        return self._choose(device_type(args), args)

    def _run(self, *args: Any) -> Any:
        device = device_type(args)
        if self.check is not None and env.values_are_checked(device):
            self.check(*args)
        return self._choose(device, args)(*args)

    def _choose(self, device: str, args: Sequence[Any]) -> Callable[..., Any]:
        asked = env.current_backend()
        order = _AUTO_ORDER.get(device, ("reference",))
        if asked in self.implementations:
            reason = self.implementations[asked].available()
            if reason is not None:
                raise NotImplementedError(f"{self.name}: backend {asked} cannot be used: {reason}")
            order = (asked, *(name for name in order if name != asked and device == "cpu"))
        reasons = []
        for name in order:
            implementation = self.implementations.get(name)
            if implementation is None:
                reasons.append(f"{name}: this op has no such backend")
                continue
            reason = implementation.available()
            if reason is None and implementation.takes is not None:
                reason = implementation.takes(*args)
            if reason is None:
                return implementation.function
            reasons.append(f"{name}: {reason}")
        raise NotImplementedError(
            f"{self.name}: no fast backend takes this call on {device}: {'; '.join(reasons)}."
            " SPARROW_BACKEND=reference is the slow way on"
        )


def _nobody_watches(args: Sequence[Any]) -> bool:
    """Whether an op called now is plain eager execution that nothing wants to see by its name."""
    return type(args[0]) is Tensor and not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd._profiler_enabled()
    )


def device_type(args: Sequence[Any]) -> str:
    """The kind of device a call runs on: that of its first tensor."""
    for value in args:
        if isinstance(value, Tensor):
            return value.device.type
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
            return value[0].device.type
    return "cpu"


def define(schema: str, *, fake: Callable[..., Any], check: Callable | None = None) -> Op:
    """Define `sparrow::<name>` from its schema; integers that vary must be `SymInt` there."""
    op = Op(schema, fake, check)
    _OPS[op.name] = op
    return op


def defined_ops() -> dict[str, Op]:
    """Every op defined so far, by name."""
    return dict(_OPS)
