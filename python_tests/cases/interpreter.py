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


if CANNOT_INTERPRET is None:
    _sum_products_in_order()
    _ones_of_unsigned_numbers()
