"""The log-sum-exp of whole-sequence attention, which parts are merged by, and its gradient."""

import pytest
import torch
from test_attention_window import BACKENDS, CASES
from window_cases import (
    added_up,
    dense_with_lse,
    drawn,
    lse_and_references,
)

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import anchored_window_attention
from sparrow_kernels.ops.attention.window_ops import ANCHORED_WINDOW_BACKWARD
from sparrow_kernels.testing import assert_close

LSE_CASES = [
    "a clip in the middle",
    "window 0, rows that see nothing",
    "one row that sees nothing",
    "empty sequence",
    "group 7",
    "float64",
    "float16",
    "the last rows",
    "the last rows, causal",
    "the last rows, some see nothing",
    "the last rows, ragged",
    "no row",
    "several causal requests",
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LSE_CASES)
def test_log_sum_exp_and_its_gradient(name, backend):
    mask, window, options = CASES[name]
    query, key, value, grad = drawn(mask, **options)

    def ours(*leaves):
        return anchored_window_attention(*leaves, mask, window=window, return_lse=True)

    with env.backend(backend):
        compared = lse_and_references(ours, mask, window, query, key, value, grad)
    summands = {"d_value": added_up(query, key, value, grad, mask, window)}
    for what, actual, exact, rounded in compared:
        if what == "lse":
            wide = torch.float64 if query.dtype == torch.float64 else torch.float32
            assert actual.dtype == wide
            blind = exact.isinf()
            assert torch.equal(actual.isinf(), blind)
            actual, exact, rounded = (
                x.masked_fill(blind, 0.0) for x in (actual, exact, rounded.to(wide))
            )
        if query.dtype == torch.float64:
            torch.testing.assert_close(actual, exact, rtol=1e-12, atol=1e-13)
        else:
            assert_close(actual, exact, rounded, name=what, summands=summands.get(what, 0.0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_lse_alone_has_a_gradient(backend):
    mask, window, _ = CASES["float64"]
    query, key, value, _ = drawn(mask, dtype=torch.float64, rows=90)

    def ours(*leaves):
        return anchored_window_attention(*leaves, mask, window=window, return_lse=True)

    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    with env.backend(backend):
        ours(*leaves)[1].sum().backward()
    wide = [tensor.clone().requires_grad_() for tensor in (query, key)]
    dense_with_lse(*wide, value, mask, window, torch.float64)[1].sum().backward()
    for leaf, reference in zip(leaves[:2], wide, strict=True):
        torch.testing.assert_close(leaf.grad, reference.grad, rtol=1e-12, atol=1e-13)
    assert not leaves[2].grad.any()


def test_an_unused_lse_reaches_no_backend():
    mask, window, _ = CASES["a clip in the middle"]
    query, key, value, grad = drawn(mask)
    implementation = ANCHORED_WINDOW_BACKWARD.implementations["torch"]
    function, given = implementation.function, []

    def noted(*arguments):
        given.append(arguments[9] if len(arguments) > 9 else None)  # a default is left out
        return function(*arguments)

    implementation.function = noted
    try:
        for return_lse in (False, True):
            query.requires_grad_()
            with env.backend("torch"):
                out = anchored_window_attention(
                    query, key, value, mask, window=window, return_lse=return_lse
                )
            (out[0] if return_lse else out).backward(grad)
    finally:
        implementation.function = function
    assert given == [None, None]
