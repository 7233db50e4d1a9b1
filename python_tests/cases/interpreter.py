"""Runs Triton's kernels in the tests of any machine: on a GPU, else under Triton's interpreter.

`TRITON_INTERPRET` must be set before anything imports triton, so conftest imports this file. A
test parametrized over `DEVICES` runs on whichever of the two the process has. What needs compiled
kernels without a GPU (compiling ahead of time) runs in a process of its own, with
TRITON_INTERPRET=0 in its environment.

The interpreter's `tl.dot` is a matrix product of NumPy's, whose order of summing its BLAS picks by
the operands' shapes, by the machine and by the number of threads. Here it sums in one order, so
that the bits of a result are our kernels' doing.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from sparrow_kernels.ops.attention.triton import availability

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

CANNOT_INTERPRET = availability.unavailable() or (
    None if availability.interpreting() else "this process compiles kernels for its GPU"
)
interpreted = pytest.mark.skipif(CANNOT_INTERPRET is not None, reason=str(CANNOT_INTERPRET))

DEVICES = [
    pytest.param("cpu", marks=interpreted, id="interpreter"),
    pytest.param("cuda", marks=pytest.mark.gpu),
]


def _sum_products_in_order() -> None:
    """Every `tl.dot` of floats is summed in float64 along its inner dim, and rounded once."""
    import numpy
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    by_blas = InterpreterBuilder.create_dot

    def create_dot(builder: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        if {a.data.dtype.kind, b.data.dtype.kind} != {"f"}:  # integers, and what NumPy has not
            return by_blas(builder, a, b, d, *options)
        left, right, total = (each.data.astype(numpy.float64) for each in (a, b, d))
        with numpy.errstate(invalid="ignore", over="ignore"):  # NaN and inf go where they go
            for k in range(left.shape[-1]):
                total += left[..., :, k, None] * right[..., None, k, :]
            return TensorHandle(total.astype(d.data.dtype), d.dtype.scalar)

    InterpreterBuilder.create_dot = create_dot


def _ones_of_unsigned_numbers() -> None:
    """Before 3.9 the interpreter asks for -1 as an unsigned number, which NumPy 2 refuses."""
    import numpy
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _get_np_dtype

    of_others = InterpreterBuilder.get_all_ones_value

    def get_all_ones_value(builder: Any, type: Any) -> Any:
        dtype = _get_np_dtype(type)
        if not numpy.issubdtype(dtype, numpy.unsignedinteger):
            return of_others(builder, type)
        return TensorHandle(numpy.full(1, numpy.iinfo(dtype).max, dtype=dtype), type.scalar)

    InterpreterBuilder.get_all_ones_value = get_all_ones_value


def _the_language_is_patched_once() -> None:
    """A launch patches triton's language, and every call of a device function patches it again:
    a quarter of the time. Once a function will do: what its first call patches besides stays."""
    from triton.runtime.interpreter import InterpretedFunction

    patching = InterpretedFunction.__call__
    patched = set()

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        if function in patched:
            return function.rewrite()(*args, **kwargs)
        patched.add(function)
        return patching(function, *args, **kwargs)

    InterpretedFunction.__call__ = call


def _overflows_are_found_by_numpy() -> None:
    """The same check of every sum, difference and product of integers, without a dozen
    operations of triton's for it: another quarter."""
    import numpy
    from triton.language.semantic import TritonSemantic

    operations = {"add": numpy.add, "sub": numpy.subtract, "mul": numpy.multiply}

    def check(semantic: Any, left: Any, right: Any, operation: Any) -> None:
        scalar = left.type.scalar
        if scalar.int_bitwidth >= 64:
            return
        exact = operations[operation.__name__](
            left.handle.data.astype(numpy.int64), right.handle.data.astype(numpy.int64)
        )
        inside = exact.min() >= scalar.get_int_min_value()
        assert inside and exact.max() <= scalar.get_int_max_value(), (
            f"{scalar} overflow detected for operation {operation.__name__}"
        )

    TritonSemantic.binary_op_sanitize_overflow_impl = check


def _dtypes_are_looked_up_once() -> None:
    """The interpreter makes a table of all of them to look one up, tens of times an operation."""
    from triton.runtime import interpreter

    looked_up, known = interpreter._get_np_dtype, {}

    def get(type: Any) -> Any:
        if type.name not in known:  # blocks and pointers of a kind have a name of their own
            known[type.name] = looked_up(type)
        return known[type.name]

    interpreter._get_np_dtype = get


def _shapes_are_made_once() -> None:
    """Every result's type makes its shape and name anew, checks it, and wraps each of its sizes."""
    from triton.language import core

    make_type, make_tensor = core.block_type.__init__, core.tensor.__init__
    types: dict[Any, dict[str, Any]] = {}
    shapes: dict[Any, tuple[Any, Any]] = {}

    def of_block(type: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, tuple(map(core._unwrap_if_constexpr, shape)))
        if key not in types:
            make_type(type, element_ty, shape)
            types[key] = dict(type.__dict__)
        type.__dict__.update(types[key])

    def of_tensor(tensor: Any, handle: Any, type: Any) -> None:
        key = type.name if type.is_block() else ""
        if key not in shapes:
            make_tensor(tensor, handle, type)
            shapes[key] = (tensor.shape, tensor.numel)
        tensor.handle, tensor.type, tensor.dtype = handle, type, type.scalar
        tensor.shape, tensor.numel = shapes[key]

    core.block_type.__init__, core.tensor.__init__ = of_block, of_tensor


def _blocks_of_one_shape_are_as_they_are() -> None:
    """Two operands of one shape are not broadcast, which would copy both."""
    from triton.language.semantic import TritonSemantic

    broadcast = TritonSemantic.broadcast_impl_value

    def broadcast_impl_value(semantic: Any, left: Any, right: Any) -> Any:
        are_blocks = left.type.is_block() and right.type.is_block()
        if are_blocks and list(left.type.shape) == list(right.type.shape):
            return left, right
        return broadcast(semantic, left, right)

    TritonSemantic.broadcast_impl_value = broadcast_impl_value


if CANNOT_INTERPRET is None:
    _sum_products_in_order()
    _ones_of_unsigned_numbers()
    _the_language_is_patched_once()
    _overflows_are_found_by_numpy()
    _dtypes_are_looked_up_once()
    _shapes_are_made_once()
    _blocks_of_one_shape_are_as_they_are()
