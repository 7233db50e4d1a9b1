"""What autograd, forward-mode AD, vmap and FLOP counters find at an op.

`registry.Op` brings every op here. One with a `Derivative` is differentiated by it: in reverse and
forward mode, eager, compiled and under `torch.func`. Any other refuses by its name, because what
PyTorch does with an operator without a formula is a gradient of zero that nobody notices.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from sparrow_kernels.ops import library


class Derivative(NamedTuple):
    """The three functions of a `torch.autograd.Function`, over the arguments of an op's schema.

    A list of tensors stays a list: `backward` returns a list of gradients there, `jvp` takes a list
    of tangents. Gradients and tangents of what takes no part are None.
    """

    setup_context: Callable[[Any, tuple[Any, ...], Any], None]
    backward: Callable[..., Sequence[Any]]
    jvp: Callable[..., Any]


def save(ctx: Any, *tensors: Tensor) -> None:
    """Keep `tensors` as `ctx.saved_tensors`, for both modes."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def refused_later(message: str) -> Derivative:
    """For an op that a derivative itself calls: who differentiates twice gets `message`.

    Its call must pass, as `torch.func.grad` keeps a graph of every backward.
    """

    def refuse(*_: Any) -> NoReturn:
        raise NotImplementedError(message)

    return Derivative(lambda ctx, inputs, output: None, refuse, refuse)


def is_differentiated(args: Sequence[Any]) -> bool:
    """Whether a call on `args` has to be followed by a derivative, of either mode."""
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
        return True
    return forward_ad._current_level >= 0 and any(map(_has_tangent, _tensors(args)))


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None


def _tensors(args: Iterable[Any]) -> Iterable[Tensor]:
    for value in args:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def below_autograd(call: Any, args: Sequence[Any]) -> Any:
    """The op `call` without autograd."""
    with torch._C._AutoDispatchBelowAutograd():
        return call(*args)


def differentiate(function: Any, args: Sequence[Any]) -> Any:
    """The op with autograd: `function` is what `autograd_function` made of it."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    if sum(each.key() == torch._C._functorch.TransformType.Jvp for each in stack) > 1:
        # The tangent that an autograd function gives has none of its own: it would be 0, silently.
        raise NotImplementedError(
            f"{function.op}: derivatives must not be forward mode in forward mode, which torch does"
            " not give for a function of our own (torch.func.jacfwd of jacrev or grad does)"
        )
    lengths = tuple(len(value) if isinstance(value, list) else None for value in args)
    with enable_single_level_autograd_function():
        return function.apply(lengths, *_flat(args))


def refuse(call: Any, args: Sequence[Any], instead: str) -> NoReturn:
    """Name the argument that asks the op `call` for a derivative, and what to do `instead`."""
    name = _name(call)
    for argument, value in zip(call._schema.arguments, args, strict=False):
        if not is_differentiated([value]):
            continue
        kind = "not require grad"
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(value)):
            kind = "not carry a tangent"
        raise NotImplementedError(
            f"{name}: {argument.name} must {kind} (the op has no derivative: {instead})"
        )
    raise AssertionError(name)  # is_differentiated(args) said that one of them does


def _flat(nested: Iterable[Any]) -> list[Any]:
    flat: list[Any] = []
    for value in nested:
        if isinstance(value, list):
            flat.extend(value)
        else:
            flat.append(value)
    return flat


def _nested(lengths: Sequence[int | None], flat: Iterable[Any]) -> tuple[Any, ...]:
    rest = iter(flat)
    return tuple(
        next(rest) if length is None else [next(rest) for _ in range(length)] for length in lengths
    )


def autograd_function(call: Any, derivative: Derivative) -> Any:
    """The op `call` as a function of one level of autograd: the dispatcher brings each level here.

    `torch.library.register_autograd` knows no forward mode and refuses `torch.func`, and a plain
    `torch.autograd.Function` would ask for all levels at once, which nothing below the dispatcher
    can give.
    """

    class Differentiated(_SingleLevelFunction):
        op = _name(call)

        @staticmethod
        def forward(lengths: Sequence[int | None], *flat: Any) -> Any:
            # An autograd function runs with both modes off, but transforms around this one follow.
            around = torch._C._functorch.peek_interpreter_stack() is not None
            with torch.set_grad_enabled(around), forward_ad._set_fwd_grad_enabled(around):
                return below_autograd(call, _nested(lengths, flat))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.lengths, *flat = inputs
            ctx.set_materialize_grads(False)
            derivative.setup_context(ctx, _nested(ctx.lengths, flat), output)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
            return None, *_flat(derivative.backward(ctx, *grads))

        @staticmethod
        def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
            return derivative.jvp(ctx, *_nested(ctx.lengths, tangents))

    return type(_name(call), (Differentiated,), {})  # autograd names its nodes so


def _name(call: Any) -> str:
    """As the public function is called, whose form with `out=` is an op of another name."""
    name: str = call._schema.name.removeprefix(f"{library.NAMESPACE}::{library.PREFIX}")
    return name.removesuffix("_out")


def vmap_rule(call: Any) -> Callable[..., Any]:
    """One call an example: ops have a batch dim of their own, which is the fast way.

    An op in place is refused: a batched cache need not be one that rows can be written to.
    """
    name = _name(call)

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        if call._schema.is_mutable or info.batch_size == 0:
            why = "it writes in place" if call._schema.is_mutable else "there is no example"
            raise NotImplementedError(
                f"{name}: cannot run under vmap, as {why} (its arguments have a batch dim B:"
                " call it once for the whole batch)"
            )
        results = []
        for example in range(info.batch_size):
            given = [_pick(*each, example) for each in zip(args, in_dims, strict=True)]
            results.append(call(*given))
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])

    return rule


def _pick(value: Any, dim: Any, example: int) -> Any:
    """The argument of one example."""
    if isinstance(value, (list, tuple)):
        return [_pick(each, its_dim, example) for each, its_dim in zip(value, dim, strict=True)]
    if dim is None:
        return value
    picked = value.select(dim, example)
    # The batched dim may have been the last: rows are to be contiguous.
    return picked if picked.dim() == 0 or picked.stride(-1) == 1 else picked.contiguous()


def let_counters_know(call: Any, formula: Callable[..., int]) -> None:
    """Give the active `FlopCounterMode`s the op's `formula(*args, out_val=results)`.

    Not at import: `torch.utils.flop_counter` takes a while to import, and imports triton.
    """
    counting = sys.modules.get("torch.utils.flop_counter")
    if counting is None:
        return
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    for mode in _get_current_dispatch_mode_stack():
        if isinstance(mode, counting._FlopCounterMode):
            mode.counter.flop_registry.setdefault(call._overloadpacket, formula)


def mark_written(value: Any) -> None:
    """Tell autograd that an op has written to `value`: who saved it for a backward must hear it."""
    if value is not None:
        torch._C._increment_version(value if type(value) is list else (value,))
