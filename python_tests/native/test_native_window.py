"""Native whole-sequence attention: odd sizes, what nobody sees, bits on any number of threads."""

from __future__ import annotations

import random

import pytest
import torch
from step_memory import peak
from torch import Tensor
from window_cases import added_up, drawn, lse_and_references, text

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import anchored_window_attention
from sparrow_kernels.ops.attention.window_ops import ANCHORED_WINDOW, ANCHORED_WINDOW_BACKWARD
from sparrow_kernels.testing import assert_close, guard_rows


def scattered(length: int, share: float, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.rand(batch, length, generator=generator) < share


def is_as_defined(mask: Tensor, window: int, **options: object) -> None:
    """Result, log-sum-exp and gradients, through both, within the policy of float64's."""
    query, key, value, grad = drawn(mask, **options)

    def ours(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        return anchored_window_attention(*leaves, mask, window=window, return_lse=True)

    with env.backend("native"):
        compared = lse_and_references(ours, mask, window, query, key, value, grad)
    added = added_up(query, key, value, grad, mask, window)
    for what, actual, exact, rounded in compared:
        if what == "lse":
            assert torch.equal(actual.isinf(), exact.isinf())
            blind = exact.isinf()
            actual, exact = actual.masked_fill(blind, 0.0), exact.masked_fill(blind, 0.0)
            rounded = rounded.float().masked_fill(blind, 0.0)
        # Of floats the few that one row gives may be smaller than what they were added up from.
        summands = 2.0 if actual.dtype == torch.float32 else 0.0
        summands = max(summands, added if what == "d_value" else 0.0)
        assert_close(actual, exact, rounded, name=f"{what}: {options}", summands=summands)


def test_odd_sizes() -> None:
    draw = random.Random(0)
    for _ in range(60):
        length = draw.choice([1, 2, 15, 63, 64, 65, 130, 257])
        group, kv_heads = draw.choice([1, 1, 2, 3, 7]), draw.choice([1, 2])
        is_as_defined(
            scattered(length, draw.choice([0.0, 0.1, 0.5, 1.0]), batch=draw.choice([1, 1, 3])),
            draw.choice([0, 1, 5, 64, 100, length, 1000, 2**63 - 1]),
            heads=group * kv_heads,
            kv_heads=kv_heads,
            head_dim=draw.choice([1, 3, 8, 16, 20, 33, 48, 64]),
            dtype=draw.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16]),
            rows=draw.choice([None, None, 1, (length + 1) // 2]),
        )


@pytest.mark.parametrize("window", [20, 0, 5000])
def test_long_sequences_are_cut_alike_on_any_number_of_threads(window: int) -> None:
    """Sums of keys' gradients over several runs of blocks: as defined, and the same bits."""
    mask = scattered(700, 0.05)
    options = {"heads": 6, "kv_heads": 2, "head_dim": 24}
    is_as_defined(mask, window, **options)
    query, key, value, grad = drawn(mask, **options)
    threads, first = torch.get_num_threads(), None
    try:
        with env.backend("native"):
            for count in (1, 2, 3, 5):
                torch.set_num_threads(count)
                out, lse = ANCHORED_WINDOW(query, key, value, mask, window, 0.2)
                saved = (grad, query, key, value, out, lse, mask, window, 0.2, lse)
                found = [out, lse, *ANCHORED_WINDOW_BACKWARD(*saved)]
                first = first or found
                assert all(torch.equal(*pair) for pair in zip(found, first, strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("window", [9, 0])
def test_what_no_row_sees_is_not_read(window: int) -> None:
    """Nor is anything written but the results; its gradients are exactly 0."""
    mask, rows = scattered(300, 0.1), 120
    options = {"heads": 6, "kv_heads": 2, "head_dim": 20, "rows": rows}
    seen = mask[0] | (torch.arange(300) > 300 - rows - window)
    if window == 0:
        seen = mask[0]
    tensors = drawn(mask, **options)
    with env.backend("native"), guard_rows() as guards:
        query, key, value, grad = (guards.copy(tensor) for tensor in tensors)
        out, lse = ANCHORED_WINDOW(query, key, value, mask, window, 0.2)
        saved = (out, lse, mask, window, 0.2, None)
        clean = (out, lse, *ANCHORED_WINDOW_BACKWARD(grad, query, key, value, *saved))
        for poisoned in (key, value):
            poisoned[:, :, ~seen] = torch.nan
        out, lse = ANCHORED_WINDOW(query, key, value, mask, window, 0.2)
        found = (out, lse, *ANCHORED_WINDOW_BACKWARD(grad, query, key, value, *saved))
    assert all(torch.equal(*pair) for pair in zip(found, clean, strict=True))
    assert not found[3][:, :, ~seen].any() and not found[4][:, :, ~seen].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_that_sees_one_slot_has_no_gradient(dtype: torch.dtype) -> None:
    """Its weight is 1 whatever its score: exactly, not up to rounding."""
    query, key, value, grad = drawn(text(70, (0, 70)), head_dim=33, dtype=dtype)
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    with env.backend("native"):
        out = anchored_window_attention(*leaves, torch.zeros(1, 70, dtype=torch.bool), window=1)
        out.backward(grad)
    assert not query.grad.any() and not key.grad.any()
    assert torch.equal(out, value.repeat_interleave(2, 1))


def test_memory_is_linear_in_the_sequence() -> None:
    """Beside results and what autograd keeps: sums of keys' gradients and a thread's tiles."""

    def step(length: int) -> int:
        mask = scattered(length, 0.02)
        query, key, value, grad = drawn(mask, head_dim=32)
        leaves = [tensor.requires_grad_() for tensor in (query, key, value)]

        def run() -> None:
            anchored_window_attention(*leaves, mask, window=64).backward(grad)

        with env.backend("native"):
            run()
            return peak(run)

    short, long = step(2048), step(8192)
    assert long < 4.5 * short and long < 6 * 8192 * 32 * 4 * 4


def test_the_cpu_takes_it_natively_but_for_float64() -> None:
    for dtype, expected in ((torch.float32, "native"), (torch.float64, "torch")):
        mask = text(9)
        arguments = (*drawn(mask, dtype=dtype)[:3], mask, 3, 0.5)
        for op in (ANCHORED_WINDOW, ANCHORED_WINDOW_BACKWARD):
            chosen = op._choose("cpu", arguments)
            assert chosen is op.implementations[expected]
