"""`sample_tokens` against the inverse CDF, written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import each_backend, strided

from sparrow_kernels import sample_tokens
from sparrow_kernels.ops import env
from sparrow_kernels.ops.accept.ops import SAMPLE_TOKENS

RUNS = each_backend(SAMPLE_TOKENS)
# Coins as float32 holds them: the ends, their neighbours, quarters that meet sums exactly.
COINS = [0.0, 2.0**-149, 0.25, 0.5, 0.75, 1 - 2.0**-24, 1.0]


def expected_token(probs: list[float], coin: float) -> int:
    if any(not prob >= 0 for prob in probs) or not any(probs):
        return -1
    total = 0.0
    for prob in probs:
        total += prob
    running = 0.0
    for token, prob in enumerate(probs):
        running += prob
        if running > coin * total:
            return token
    return max(token for token, prob in enumerate(probs) if prob > 0)


@RUNS
@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 3.0, 1e-30]), min_size=1, max_size=9),
    st.one_of(st.sampled_from(COINS), st.floats(0, 1, width=32)),
)
@settings(max_examples=200, deadline=None)
def test_drawn_rows(backend: str, probs: list[float], coin: float) -> None:
    row, uniform = torch.tensor([probs]), torch.tensor([coin])
    with env.backend(backend), env.checks(any(probs)):
        token = sample_tokens(row, uniform).item()
    assert token == expected_token(row[0].tolist(), uniform.item())
    assert token == -1 or probs[token] > 0


@RUNS
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (2, 0)])
def test_leading_dims(backend: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    probs = torch.rand(*shape, 1000, generator=generator)
    uniform = torch.rand(shape, generator=generator)
    with env.backend(backend):
        tokens = sample_tokens(probs, uniform)
    assert (tokens.dtype, tokens.shape) == (torch.int64, shape)
    rows, coins = probs.reshape(-1, 1000).tolist(), uniform.flatten().tolist()
    assert tokens.flatten().tolist() == [
        expected_token(row, coin) for row, coin in zip(rows, coins, strict=True)
    ]


@RUNS
def test_strided_rows(backend: str) -> None:
    generator = torch.Generator().manual_seed(2)
    probs = strided(torch.rand(2, 5, 70, generator=generator))
    uniform = strided(torch.rand(2, 5, generator=generator))
    with env.backend(backend):
        tokens = sample_tokens(probs, uniform)
    assert tokens.tolist() == [
        [expected_token(probs[b, n].tolist(), uniform[b, n].item()) for n in range(5)]
        for b in range(2)
    ]


@RUNS
def test_every_id_gets_its_share(backend: str) -> None:
    """Coins on a grid of 1/64 draw each id as often as its mass in 64ths says."""
    shares = [0, 5, 0, 40, 1, 18, 0]
    uniform = (torch.arange(64) + 0.5) / 64
    with env.backend(backend):
        tokens = sample_tokens(torch.tensor(shares).float().expand(64, -1), uniform)
    assert tokens.bincount(minlength=7).tolist() == shares


@RUNS
def test_a_vocabulary_of_a_real_model(backend: str) -> None:
    generator = torch.Generator().manual_seed(3)
    probs = torch.randn(2, 152064, generator=generator).mul(4).softmax(-1)
    uniform = torch.tensor([0.37, 1.0])
    with env.backend(backend):
        tokens = sample_tokens(probs, uniform).tolist()
    assert tokens == [expected_token(probs[n].tolist(), uniform[n].item()) for n in range(2)]


BAD_ROWS = {
    "no mass": [0.0, 0.0, 0.0],
    "NaN": [0.5, math.nan, 0.5],
    "NaN last": [0.5, 0.5, math.nan],
    "negative": [0.5, 0.75, -0.25],
    "all negative": [-1.0, -1.0, -1.0],
}


@RUNS
@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows(backend: str, name: str) -> None:
    probs = torch.tensor([[0.5, 0.5, 0.0], BAD_ROWS[name]])
    for coin in (0.0, 0.4, 1.0):
        uniform = torch.full((2,), coin)
        with pytest.raises(ValueError, match=r"sample_tokens: probs must be .*got probs\[1\] with"):
            sample_tokens(probs, uniform)
        with env.backend(backend), env.checks(False):
            assert sample_tokens(probs, uniform)[1] == -1


@RUNS
@pytest.mark.parametrize("coin", [-0.5, 1.5, math.nan, math.inf, -math.inf])
def test_bad_coins(backend: str, coin: float) -> None:
    probs = torch.tensor([[0.0, 0.25, 0.75, 0.0]])
    with pytest.raises(ValueError, match=r"uniform must be in \[0, 1\], got uniform\[0\] ="):
        sample_tokens(probs, torch.tensor([coin]))
    with env.backend(backend), env.checks(False):
        token = sample_tokens(probs, torch.tensor([coin])).item()
    assert token == (1 if coin < 0 else 2)  # clamped; a NaN exceeds nothing


def test_wrong_kinds_are_refused() -> None:
    probs, uniform = torch.ones(2, 3, 4), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"uniform must be .* = \[2, 3\], got \[3, 2\]"):
        sample_tokens(probs, uniform.T.contiguous())
    with pytest.raises(TypeError, match="probs must be float32, got float64"):
        sample_tokens(probs.double(), uniform)
    with pytest.raises(TypeError, match="uniform must be float32, got float64"):
        sample_tokens(probs, uniform.double())
    with pytest.raises(ValueError, match="V >= 1"):
        sample_tokens(probs[..., :0], uniform)
    with pytest.raises(ValueError, match="contiguous in its last dim"):
        sample_tokens(probs.mT, torch.zeros(2, 4))
