"""anchored_window_attention, forward and backward, against a dense definition in float64."""

from functools import partial

import pytest
import torch
from attention_oracle import CPU_BACKENDS as BACKENDS
from dispatch import compiles_once, opcheck
from test_attention_dispatch import LargestTensor
from window_cases import (
    added_up,
    dense,
    drawn,
    ragged,
    text,
    with_gradients,
    with_lse_gradients,
)

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import anchored_window_attention
from sparrow_kernels.ops.attention.window_ops import ANCHORED_WINDOW, ANCHORED_WINDOW_BACKWARD
from sparrow_kernels.testing import assert_close

CASES = {
    "a clip in the middle": (text(300, (20, 260)), 16, {}),
    "no visual span": (text(140), 4, {}),
    "all visual": (text(140, (0, 140)), 7, {}),
    "window 0": (text(200, (40, 170)), 0, {}),
    "window 0, rows that see nothing": (text(200, (0, 150)), 0, {}),
    "window 1": (text(140, (0, 140)), 1, {}),
    "window at a block's edge": (text(260, (5, 250)), 128, {}),
    "window larger than the sequence": (text(140, (0, 140)), 1000, {}),
    "one row": (text(1), 1, {}),
    "one row that sees nothing": (text(1, (0, 1)), 0, {}),
    "ragged": (ragged(), 5, {}),
    "empty batch": (text(9)[:0], 5, {}),
    "empty sequence": (text(0), 5, {}),
    "group 1": (text(40, (5, 30)), 4, {"heads": 2}),
    "group 7": (text(40, (5, 30)), 4, {"heads": 7, "kv_heads": 1}),
    "head dim 128": (text(40, (5, 30)), 4, {"head_dim": 128}),
    "the last rows": (text(300, (20, 260)), 16, {"rows": 170}),
    "the last rows, causal": (text(200, (0, 200)), 1000, {"rows": 140}),
    "the last rows, no anchor": (text(200, (0, 200)), 9, {"rows": 60}),
    "the last rows, some see nothing": (text(200, (0, 170)), 0, {"rows": 60}),
    "the last row": (text(200, (3, 190)), 5, {"rows": 1}),
    "the last rows, ragged": (ragged(), 5, {"rows": 70}),
    "the last rows, group 7": (text(40, (5, 30)), 4, {"heads": 7, "kv_heads": 1, "rows": 20}),
    "the last rows, bfloat16": (text(150), 150, {"rows": 33, "dtype": torch.bfloat16}),
    "no row": (text(9), 5, {"rows": 0}),
    "several causal requests": (ragged(), 150, {}),
    "several causal requests, group 1": (ragged(), 151, {"heads": 2, "rows": 140}),
    "float64": (text(150, (5, 130)), 4, {"dtype": torch.float64}),
    "bfloat16": (text(150, (5, 130)), 4, {"dtype": torch.bfloat16}),
    "float16": (text(150, (5, 130)), 4, {"dtype": torch.float16}),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_result_and_gradients(name, backend):
    mask, window, options = CASES[name]
    query, key, value, grad = drawn(mask, **options)

    def ours(*leaves):
        return anchored_window_attention(*leaves, mask, window=window)

    with env.backend(backend):
        actual = with_gradients(ours, query, key, value, grad)
    wide = [tensor.double() for tensor in (query, key, value)]
    exact = with_gradients(lambda *x: dense(*x, mask, window, torch.float64), *wide, grad)
    rounded = with_gradients(
        lambda *x: dense(*x, mask, window, query.dtype), query, key, value, grad
    )
    # What one row gives may be smaller than what it was added up from.
    usual = 2.0 if query.shape[2] == 1 else 0.0
    summands = {"d_value": max(usual, added_up(query, key, value, grad, mask, window))}
    for what, *three in zip(
        ("out", "d_query", "d_key", "d_value"), actual, exact, rounded, strict=True
    ):
        assert three[0].dtype == query.dtype
        if query.dtype == torch.float64:  # the oracle rounds as the op does
            torch.testing.assert_close(*three[:2], rtol=1e-12, atol=1e-13)
        else:
            assert_close(*three, name=what, summands=summands.get(what, usual))


@pytest.mark.slow
def test_gradcheck():
    mask, window, _ = text(7, (1, 6)), 2, {}
    query, key, value, _ = drawn(mask, head_dim=4, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    for backend in BACKENDS:
        with env.backend(backend):
            for rows in (7, 4):
                assert torch.autograd.gradcheck(
                    lambda query, *x, rows=rows: anchored_window_attention(
                        query[:, :, 7 - rows :], *x, mask, window=window, scale=0.7, return_lse=True
                    ),
                    leaves,
                )


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_inputs_and_gradients(backend):
    mask, window, _ = CASES["a clip in the middle"]
    query, key, value, grad = drawn(mask)
    with env.backend(backend):

        def ours(*leaves):
            return anchored_window_attention(*leaves, mask, window=window)

        plain = with_gradients(ours, query, key, value, grad)
        strided = with_gradients(
            lambda q, k, v: ours(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2),
            *(x.transpose(1, 2).contiguous() for x in (query, key, value)),
            grad.transpose(1, 2),
        )
        expanded = with_gradients(ours, query, key, value, torch.ones(()).expand(query.shape))
        ones = with_gradients(ours, query, key, value, torch.ones(query.shape))
    for left, right in zip(plain, strided, strict=True):
        torch.testing.assert_close(left, right.transpose(1, 2))
    for left, right in zip(expanded, ones, strict=True):
        assert torch.equal(left, right)


def test_only_what_is_asked_gets_a_gradient():
    mask, window, _ = CASES["a clip in the middle"]
    query, key, value, grad = drawn(mask)
    query.requires_grad_()
    anchored_window_attention(query, key, value, mask, window=window).backward(grad)
    assert query.grad is not None and key.grad is None


@pytest.mark.parametrize("backward", [False, True])
def test_cost_is_that_of_what_is_seen(backward):
    """No tensor grows with the square of the sequence; the CPU form never scores all columns."""
    length, window = 3000, 20
    mask = text(length, (40, length - 10))
    query, key, value, grad = drawn(mask)
    given = [query, key, value, grad, mask]
    arguments = [query, key, value, mask, window, 0.25]
    out, lse = ANCHORED_WINDOW(*arguments)
    for backend, columns in (("reference", length), ("torch", 60 + window + 128)):
        op = ANCHORED_WINDOW
        if backward:
            op, arguments = (
                ANCHORED_WINDOW_BACKWARD,
                [grad, query, key, value, out, lse, mask, window, 0.25],
            )
        with LargestTensor(*given, out, lse) as seen:
            op.implementations[backend].function(*arguments)
        assert seen.largest <= max(128 * 4 * columns, query.numel())


def test_refusals():
    mask, window, _ = CASES["group 1"]
    query, key, value, _ = drawn(mask)
    for arguments, error, message in (
        ((query, key, value, mask[:, 1:]), ValueError, r"anchor_mask must be \[B, S\]"),
        ((query, key, value, mask.int()), TypeError, "anchor_mask must be bool"),
        ((query, key[:, :, 1:], value, mask), ValueError, "value must be"),
        ((query[:, :3], key, value, mask), ValueError, "multiple of Hkv"),
        (
            (query, key[:, :, 1:], value[:, :, 1:], mask[:, 1:]),
            ValueError,
            "query must be of at most S = 39 rows, got R = 40",
        ),
        ((query[:, :, 1:], key, value, mask[:, 1:]), ValueError, r"anchor_mask must be \[B, S\]"),
        ((query, key, value.half(), mask), TypeError, "value must be float32"),
        ((query.mT.contiguous().mT, key, value, mask), ValueError, "contiguous in its last dim"),
    ):
        with pytest.raises(error, match=f"anchored_window_attention: .*{message}"):
            anchored_window_attention(*arguments, window=window)
    with pytest.raises(ValueError, match="window must be at least 0, got -1"):
        anchored_window_attention(query, key, value, mask, window=-1)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_are_ops(backend):
    mask = text(30, (4, 25))
    query, key, value, grad = drawn(mask)
    out, lse = ANCHORED_WINDOW(query, key, value, mask, 3, 0.25)
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (query, key, value)]
    opcheck(ANCHORED_WINDOW, backend, *leaves, mask, 3, 0.25)
    saved = [grad, query, key, value, out, lse, mask, 3, 0.25]
    for arguments in (saved, [*saved, torch.randn(lse.shape)]):
        opcheck(ANCHORED_WINDOW_BACKWARD, backend, *arguments)
    leaves[0] = query[:, :, 12:].detach().clone().requires_grad_()
    opcheck(ANCHORED_WINDOW, backend, *leaves, mask, 3, 0.25)

    def calls(length, window, rows=None):
        mask = text(length, (4, 9))
        return lambda: (*drawn(mask, rows=rows)[:3], mask, window)

    def attend(query, key, value, mask, window):
        return anchored_window_attention(query, key, value, mask, window=window, return_lse=True)

    with env.backend(backend):
        compiles_once(attend, [calls(12, 3), calls(30, 4)])
        compiles_once(attend, [calls(12, 3, 5), calls(30, 4, 11)])


@pytest.mark.slow
@pytest.mark.parametrize("rows", [None, 100])
def test_compiled_training(rows):
    torch._dynamo.reset()
    mask, window, _ = CASES["a clip in the middle"]
    tensors = drawn(mask, rows=rows)

    def ours(*leaves, return_lse=False):
        return anchored_window_attention(*leaves, mask, window=window, return_lse=return_lse)

    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for left, right in zip(
        with_gradients(ours, *tensors), with_gradients(compiled, *tensors), strict=True
    ):
        assert torch.equal(left, right)
    d_lse = torch.randn(tensors[0].shape[:3])
    ours, compiled = (partial(function, return_lse=True) for function in (ours, compiled))
    for left, right in zip(
        with_lse_gradients(ours, *tensors, d_lse),
        with_lse_gradients(compiled, *tensors, d_lse),
        strict=True,
    ):
        assert torch.equal(left, right)
