"""Triton's interpreter as tests run it: a product has the same bits on every machine, and what it
checks it still checks."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from interpreter import interpreted

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")


@triton.jit
def dot_kernel(a_ptr, b_ptr, out_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    acc = tl.load(out_ptr + m[:, None] * N + n[None, :])
    acc = tl.dot(a, b, acc, input_precision="ieee")
    tl.store(out_ptr + m[:, None] * N + n[None, :], acc)


def dot(a: torch.Tensor, b: torch.Tensor, acc: float = 0.0) -> torch.Tensor:
    out = torch.full((a.shape[0], b.shape[1]), acc)
    dot_kernel[(1,)](a.contiguous(), b.contiguous(), out, *out.shape, a.shape[1])
    return out


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_row_times_a_column_is_one_sum_whatever_is_beside_them(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(64, 128).to(dtype), torch.randn(128, 32).to(dtype)
    whole = dot(a, b)
    assert torch.equal(dot(a[16:32], b[:, 16:]), whole[16:32, 16:])
    terms = (a.double()[:, None] * b.double().T).tolist()
    exact = torch.tensor([[[*accumulate(each)][-1] for each in row] for row in terms])
    assert torch.equal(whole, exact)


@interpreted
def test_it_is_rounded_once() -> None:
    """Along the row, float32 would lose the first 1."""
    a, b = torch.zeros(16, 16), torch.ones(16, 16)
    a[:, :5] = torch.tensor([2.0**24, 1.0, -(2.0**24), 1.0, 2.0**-30])
    assert torch.equal(dot(a, b, acc=1.0), torch.full((16, 16), 3.0))
    a[3, 7] = torch.nan
    assert bool(dot(a, b)[3].isnan().all()) and bool(dot(a, b)[4].isfinite().all())


@triton.jit
def added(left, right):
    return left + right


@triton.jit
def add_kernel(out_ptr, left_ptr, right_ptr):
    tl.store(out_ptr, added(tl.load(left_ptr), tl.load(right_ptr)))


@interpreted
def test_an_overflow_is_found_and_what_fits_is_none() -> None:
    out, one = torch.zeros(1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    for _ in range(2):  # a device function takes another way after its first call
        add_kernel[(1,)](out, torch.full_like(one, 2**31 - 2), one)
        assert out.item() == 2**31 - 1
        with pytest.raises(Exception, match="overflow detected for operation add"):
            add_kernel[(1,)](out, out, one)
