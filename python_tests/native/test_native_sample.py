"""sample_tokens of every native library, called directly, against its definition."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from emulation import Library
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def first_past(weights: list[float], coin: float) -> int:
    """The definition of sampling, in exact rational arithmetic."""
    masses = [Fraction(weight) for weight in weights]
    threshold = Fraction(coin) * sum(masses)
    cdf = Fraction(0)
    for i, mass in enumerate(masses):
        cdf += mass
        if cdf > threshold:
            return i
    return max(i for i, mass in enumerate(masses) if mass > 0)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=300).filter(any),
    st.integers(0, 64),
)
def test_sample_tokens(library: Library, weights: list[int], coin: int) -> None:
    probs = torch.tensor([float(weight) for weight in weights])
    got = library.ops.sample_tokens(probs[None], torch.tensor([coin / 64]))
    assert got.tolist() == [first_past(probs.tolist(), coin / 64)]


@pytest.mark.parametrize("vocab", [8192, 8193, 20_001])
def test_sample_tokens_of_a_large_vocabulary(library: Library, vocab: int) -> None:
    """Every part of a row that is summed in parts, and both ends of the coin."""
    torch.manual_seed(vocab)
    weights = torch.randint(0, 3, (vocab,)).float()
    weights[-5:] = 0
    coins = torch.linspace(0, 1, 40)
    got = library.ops.sample_tokens(weights.expand(40, vocab), coins).tolist()
    cdf = weights.double().cumsum(0)
    for coin, token in zip(coins.tolist(), got, strict=True):
        above = (cdf > coin * cdf[-1].item()).nonzero()
        last = weights.nonzero()[-1].item()
        assert token == (above[0].item() if len(above) else last)
        assert weights[token] > 0


@pytest.mark.parametrize(
    "row",
    [[0.0, 0.0], [0.5, torch.nan], [-0.1, 0.6], [0.6, -0.0001]],
    ids=["no mass", "nan", "negative", "slightly negative"],
)
def test_a_row_that_is_no_distribution_yields_no_token(library: Library, row: list[float]) -> None:
    assert library.ops.sample_tokens(torch.tensor([row]), torch.tensor([0.3])).tolist() == [-1]


@pytest.mark.parametrize("coin", [-1.0, 2.0, torch.nan, torch.inf])
def test_a_wild_coin_still_lands_on_mass(library: Library, coin: float) -> None:
    probs = torch.tensor([[0.0, 0.5, 0.5, 0.0]])
    assert library.ops.sample_tokens(probs, torch.tensor([coin])).item() in (1, 2)


def test_leading_dims_are_kept(library: Library) -> None:
    probs = torch.eye(5).expand(2, 3, 5, 5)
    assert (
        library.ops.sample_tokens(probs, torch.rand(2, 3, 5)).tolist()
        == [[[0, 1, 2, 3, 4]] * 3] * 2
    )
    assert library.ops.sample_tokens(probs[0, 0, 2], torch.tensor(0.5)).item() == 2
    assert library.ops.sample_tokens(torch.zeros(0, 4), torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("probs", "uniform", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3), "uniform must be"),
        (torch.zeros(2, 3).double(), torch.zeros(2), "probs must be Float"),
        (torch.zeros(2, 3), torch.zeros(2).half(), "uniform must be Float"),
        (torch.tensor(1.0), torch.zeros(2), r"probs must be \[..., V\]"),
    ],
)
def test_sample_tokens_refuses_by_name(
    library: Library, probs: Tensor, uniform: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=f"sample_tokens: {message}"):
        library.ops.sample_tokens(probs, uniform)
