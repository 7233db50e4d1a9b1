"""Defines the ops, in the namespace that `library` names, and picks a backend when one runs.

Each op has one schema, owned here, one fake for `torch.compile`, at most one check of values, at
most one derivative, and one implementation per backend. The choice of backend is made inside the
op, at run time: a compiled graph then holds the op, not the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.ops import env, library, memory, transforms

Reason = str | None
"""Why something cannot be done; None when it can."""

LIBRARY = torch.library.Library(library.NAMESPACE, library.KIND)
_OPS: dict[str, Op] = {}

# The order in which backends are tried under `auto`. A CPU always has the reference to fall back
# on; on CUDA a silent fall back to it would cost its user an afternoon, so it is not in the list.
_AUTO_ORDER = {"cpu": ("native", "torch", "reference"), "cuda": ("native", "triton")}
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCUDA
)


class _Implementation:
    """One backend's function for one op, and when it can be used."""

    def __init__(
        self,
        function: Callable[..., Any],
        available: Callable[[], Reason],
        takes: Callable | None,
        checked: Callable[..., Any] | None,
    ) -> None:
        self.function = function
        self.available = available
        self.takes = takes
        self.checked = checked


class Op:
    """One operator: `define` makes it, `implement` adds a backend, calling it runs it.

    Without `differentiate` it refuses inputs that ask for a derivative.

    `check(*args)` raises `ValueError` for bad values (a malformed parent, a length beyond the
    cache); it runs before every backend alike, only where `env.are_checked`, and so does that of
    the memory that arguments lie in.
    """

    def __init__(
        self, schema: str, fake: Callable[..., Any], check: Callable | None, without_grad: str
    ) -> None:
        self.name = schema.split("(", 1)[0]
        self.check = check
        self.implementations: dict[str, _Implementation] = {}
        self._without_grad = without_grad
        self._function: Any = None
        self._flops: Callable[..., int] | None = None
        name = library.PREFIX + self.name
        qualified = f"{library.NAMESPACE}::{name}"
        LIBRARY.define(library.PREFIX + schema, tags=(torch.Tag.pt2_compliant_tag,))
        self.call = getattr(getattr(torch.ops, library.NAMESPACE), name).default
        arguments = self.call._schema.arguments
        self.argument_names = [argument.name for argument in arguments]
        self.written = [
            place
            for place, argument in enumerate(arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        LIBRARY.impl(name, self._run, "CompositeExplicitAutograd")
        LIBRARY.impl(name, self._watched, "Autograd")
        torch.library.register_fake(qualified, self._traced(fake), lib=LIBRARY)
        torch.library.register_vmap(qualified, transforms.vmap_rule(self.call), lib=LIBRARY)

    def __call__(self, *args: Any) -> Any:
        # Without derivatives, tracing or modes the dispatcher would only come back here, and a
        # decode step calls dozens of ops.
        if nobody_watches(args):
            return self._run(*args)
        if not torch.compiler.is_compiling():
            self._let_counters_know()
        return self.call(*args)

    def differentiate(
        self, setup_context: Callable[..., None], backward: Callable, jvp: Callable
    ) -> None:
        """Give the op its derivative, see `transforms.Derivative`."""
        derivative = transforms.Derivative(setup_context, backward, jvp)
        self._function = transforms.autograd_function(self.call, derivative)

    def count_flops(self, formula: Callable[..., int]) -> None:
        """Let `FlopCounterMode` count the op: `formula(*args, out_val=results)`."""
        self._flops = formula

    def implement(
        self,
        backend: str,
        function: Callable[..., Any],
        *,
        available: Callable[[], Reason] = lambda: None,
        takes: Callable[..., Reason] | None = None,
        checked: Callable[..., Any] | None = None,
    ) -> None:
        """Add `function` as the op's `backend`; it takes the schema's arguments in order.

        `available()` says why this machine cannot run the backend at all, `takes(*args)` why it
        cannot take this call; None means it can. `checked(*args)` is `function` with the op's check
        in it, for less than both cost one after the other: it returns None, and has written
        nothing, where a value is not as it must be, and the check then says which.
        """
        self.implementations[backend] = _Implementation(function, available, takes, checked)

    def unavailable(self, backend: str) -> Reason:
        """Why `backend` cannot run this op on this machine, None if it can."""
        implementation = self.implementations.get(backend)
        if implementation is None:
            return "this op has no such backend"
        return implementation.available()

    def chosen(self, *args: Any) -> Callable[..., Any]:
        """The function that a call with such arguments runs now, values unchecked."""
        return self._choose(device_type(args), args).function

    def _watched(self, *args: Any) -> Any:
        self._let_counters_know()  # a graph that calls the op by its name comes here alone
        if not transforms.is_differentiated(args):
            return transforms.below_autograd(self.call, args)
        if self._function is None:
            transforms.refuse(self.call, args, self._without_grad)
        return transforms.differentiate(self._function, args)

    def _let_counters_know(self) -> None:
        if self._flops is not None and torch._C._len_torch_dispatch_stack():
            transforms.let_counters_know(self.call, self._flops)

    def _run(self, *args: Any) -> Any:
        device = device_type(args)
        chosen = self._choose(device, args)
        if torch._C._is_any_autocast_enabled():
            # A dtype is chosen once, for the whole op: products inside keep theirs.
            with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
                result = self._run_by(chosen, device, args)
        else:
            result = self._run_by(chosen, device, args)
        for place in self.written:
            transforms.mark_written(args[place])
        return result

    def _run_by(self, chosen: _Implementation, device: str, args: Sequence[Any]) -> Any:
        if not env.are_checked(device):
            return chosen.function(*args)
        self._check_memory(args)
        if chosen.checked is not None:
            result = chosen.checked(*args)
            if result is not None:
                return result
        if self.check is not None:
            self.check(*args)
        return chosen.function(*args)

    def _traced(self, fake: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any) -> Any:
            name = self.name.removesuffix("_out")
            memory.check_traced(name, self.argument_names, args, self.written)
            return fake(*args)

        return checked if self.written else fake

    def _check_memory(self, args: Sequence[Any]) -> None:
        name = self.name.removesuffix("_out")  # as the public function of both forms is called
        memory.check(name, self.argument_names, args, self.written)

    def _choose(self, device: str, args: Sequence[Any]) -> _Implementation:
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
                return implementation
            reasons.append(f"{name}: {reason}")
        raise NotImplementedError(
            f"{self.name}: no fast backend takes this call on {device}: {'; '.join(reasons)}."
            " SPARROW_BACKEND=reference is the slow way on"
        )


def nobody_watches(args: Sequence[Any]) -> bool:
    """Whether an op called now is plain eager execution that nothing wants to see by its name."""
    first = args[0][0] if type(args[0]) is list and args[0] else args[0]
    return type(first) is Tensor and not (
        torch.compiler.is_compiling()
        or first.is_meta  # for which an op's fake answers
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd._profiler_enabled()
        or transforms.is_differentiated(args)
    )


def device_type(args: Sequence[Any]) -> str:
    """The kind of device a call runs on: that of its first tensor."""
    for value in args:
        if isinstance(value, Tensor):
            return value.device.type
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
            return value[0].device.type
    return "cpu"


def define(
    schema: str,
    *,
    fake: Callable[..., Any],
    check: Callable | None = None,
    without_grad: str = "call it under torch.no_grad(), or on detached tensors",
) -> Op:
    """Define `sparrow::<name>` from its schema; integers that vary must be `SymInt` there.

    `without_grad` tells who wants a derivative where there is none what to do.
    """
    op = Op(schema, fake, check, without_grad)
    _OPS[op.name] = op
    return op


def defined_ops() -> dict[str, Op]:
    """Every op defined so far, by name."""
    return dict(_OPS)
