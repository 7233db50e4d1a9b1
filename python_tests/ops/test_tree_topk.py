"""`topk_logprobs` against log_softmax in float64 and a plain sort."""

from __future__ import annotations

import math

import pytest
import torch
from tree_cases import each_backend, strided

from sparrow_kernels import topk_logprobs
from sparrow_kernels.ops import env
from sparrow_kernels.ops.tree.ops import TOPK_LOGPROBS
from sparrow_kernels.testing import assert_close

RUNS = each_backend(TOPK_LOGPROBS)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def expected_ids(row: list[float], k: int) -> list[int]:
    return sorted(range(len(row)), key=lambda token: (-row[token], token))[:k]


@RUNS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "vocabulary", "k"), [(1, 1, 1), (3, 7, 7), (8, 1000, 10), (2, 4099, 33), (0, 9, 2)]
)
def test_random_rows(backend: str, dtype: torch.dtype, rows: int, vocabulary: int, k: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (4 * torch.randn(rows, vocabulary, generator=generator)).to(dtype)
    with env.backend(backend):
        values, ids = topk_logprobs(strided(logits), k)
    assert (values.dtype, ids.dtype) == (torch.float32, torch.int64)
    assert ids.tolist() == [expected_ids(row, k) for row in logits.tolist()]
    exact = logits.double().log_softmax(-1).gather(-1, ids)
    assert_close(values, exact, logits.float().log_softmax(-1).gather(-1, ids))
    assert (values <= 0).all()
    assert (values[:, 1:] <= values[:, :-1]).all()


@RUNS
def test_ties_go_to_the_lower_id(backend: str) -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 1.0, 2.0], [0.0, -0.0, 0.0, -0.0, -1.0], [5.0] * 5])
    with env.backend(backend):
        _, ids = topk_logprobs(logits, 4)
    assert ids.tolist() == [[1, 2, 4, 0], [0, 1, 2, 3], [0, 1, 2, 3]]


@RUNS
def test_ties_at_the_cut_of_a_long_row(backend: str) -> None:
    logits = torch.zeros(2, 5000)
    logits[0, [4999, 17, 3001]] = 1.0
    logits[1, 2500:] = -1.0
    with env.backend(backend):
        _, ids = topk_logprobs(logits, 6)
    assert ids.tolist() == [[17, 3001, 4999, 0, 1, 2], [0, 1, 2, 3, 4, 5]]


@RUNS
def test_masked_and_certain_tokens(backend: str) -> None:
    logits = torch.full((2, 300), -math.inf)
    logits[0, [7, 200]] = torch.tensor([3.0, 3.0])
    logits[1, 299] = 60000.0
    with env.backend(backend):
        values, ids = topk_logprobs(logits, 4)
    assert ids.tolist() == [[7, 200, 0, 1], [299, 0, 1, 2]]
    assert (
        values[0].tolist()
        == [pytest.approx(-math.log(2)), pytest.approx(-math.log(2))] + [-math.inf] * 2
    )
    assert values[1].tolist() == [0.0] + [-math.inf] * 3


@RUNS
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_logits(backend: str, bad: float) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    logits[1, 20] = bad
    with pytest.raises(ValueError, match=rf"topk_logprobs: logits .*logits\[1\]\[20\] = {bad}"):
        topk_logprobs(logits, 4)
    with env.backend(backend), env.checks(False):
        _, ids = topk_logprobs(logits, 50)
    assert sorted(ids[0].tolist()) == sorted(ids[2].tolist()) == list(range(50))
    assert ((ids >= 0) & (ids < 50)).all()


@RUNS
def test_row_without_mass(backend: str) -> None:
    logits = torch.zeros(2, 5)
    logits[1] = -math.inf
    with pytest.raises(ValueError, match=r"finite somewhere in each row, got logits\[1\]\[0\] ="):
        topk_logprobs(logits, 2)
    with env.backend(backend), env.checks(False):
        _, ids = topk_logprobs(logits, 2)
    assert ((ids >= 0) & (ids < 5)).all()


def test_wrong_kinds_are_refused() -> None:
    logits = torch.zeros(2, 5)
    for k in (0, 6):
        with pytest.raises(ValueError, match=rf"k must be in 1..V = 5, got {k}"):
            topk_logprobs(logits, k)
    with pytest.raises(TypeError, match="logits must be float32 or float16 or bfloat16, got"):
        topk_logprobs(logits.double(), 2)
    with pytest.raises(ValueError, match=r"logits must be of at least 1 dims, got \[\]"):
        topk_logprobs(logits[0, 0], 2)


@each_backend(TOPK_LOGPROBS)
@pytest.mark.parametrize("shape", [(9,), (2, 3, 9), (2, 0, 9), (2, 1, 3, 9)])
def test_leading_dims_are_rows(shape: tuple[int, ...], backend: str) -> None:
    dense = torch.randn(shape, requires_grad=True)
    apart = torch.randn(*shape[:-1], 11)[..., :9]
    with env.backend(backend):
        for logits in (dense, apart):
            values, ids = topk_logprobs(logits, 2)
            assert values.shape == ids.shape == (*shape[:-1], 2)
            rows = logits[None] if logits.dim() == 1 else logits.flatten(0, -2)
            for got, expected in zip((values, ids), topk_logprobs(rows, 2), strict=True):
                assert torch.equal(got.reshape(expected.shape), expected)
        (grad,) = torch.autograd.grad(topk_logprobs(dense, 2)[0].sum(), dense)
    assert grad.shape == shape
