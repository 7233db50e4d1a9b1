"""The native accept_tree and sample_tokens, called directly, against their definitions."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from tree_oracle import int32, lay_out, tree_batches, walk

OPS = torch.ops.sparrow_native


def assert_accepted(
    parents: list[list[int]],
    counts: list[int],
    tokens: list[list[int]],
    target_tokens: list[list[int]],
    max_path: int,
) -> None:
    layout = OPS.build_tree(int32(parents), int32(counts))[:5]
    path, accept_length, emitted = OPS.accept_tree(
        torch.tensor(tokens), *layout, torch.tensor(target_tokens), max_path
    )
    for b, (parent, num_nodes) in enumerate(zip(parents, counts, strict=True)):
        wanted = walk(lay_out(parent, num_nodes), tokens[b], target_tokens[b], max_path)
        got = (path[b].tolist(), accept_length[b].item(), emitted[b].tolist())
        assert got == wanted


@given(tree_batches(), st.integers(0, 2**32), st.sampled_from([1, 2, 5, 1000]))
def test_accept_tree(batch: tuple, seed: int, vocab: int) -> None:
    """A small vocabulary makes siblings with the same token and long paths."""
    parents, counts = batch
    source = random.Random(seed)
    slots = len(parents[0])

    def draw() -> list[list[int]]:
        return [[source.randrange(vocab) for _ in range(slots)] for _ in parents]

    assert_accepted(parents, counts, draw(), draw(), source.randint(1, slots + 1))


@pytest.mark.parametrize("slots", [1, 64, 65, 1024])
@pytest.mark.parametrize("kind", ["all accepted", "all refused", "cut short"])
def test_a_chain(slots: int, kind: str) -> None:
    parent, tokens = list(range(-1, slots - 1)), list(range(100, 100 + slots))
    target = [-7] * slots if kind == "all refused" else [token + 1 for token in tokens]
    max_path = max(1, slots // 2) if kind == "cut short" else slots
    assert_accepted([parent], [slots], [tokens], [target], max_path)


def test_a_star_takes_the_lowest_of_equal_siblings() -> None:
    layout = OPS.build_tree(int32([[-1] + [0] * 1023]), None)[:5]
    tokens = torch.zeros(1, 1024, dtype=torch.long)
    tokens[0, 500:] = 9
    path, accept_length, emitted = OPS.accept_tree(tokens, *layout, torch.full((1, 1024), 9), 3)
    assert path.tolist() == [[0, 500, -1]]
    assert (accept_length.tolist(), emitted.tolist()) == ([1], [[9, 9, -1]])


def test_strided_inputs() -> None:
    wide = torch.full((2, 9), 3)
    layout = [f.repeat(1, 2)[:, :3] for f in OPS.build_tree(int32([[-1, 0, 1]] * 2), None)[:2]]
    ancestors, first_child, next_sibling = OPS.build_tree(int32([[-1, 0, 1]] * 2), None)[2:5]
    layout += [ancestors, first_child, next_sibling]
    path, _, _ = OPS.accept_tree(wide[:, :3], *layout, wide[:, 6:], 3)
    assert path.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("wild", [2**31 - 1, -(2**31), 3, -2, 0, 1])
def test_a_wild_layout_ends_the_walk(wild: int) -> None:
    """No reading outside, and no ring that is walked for ever."""
    links = int32([[wild] * 3])
    path, accept_length, _ = OPS.accept_tree(
        torch.tensor([[5, 6, 7]]),
        links,
        int32([[0, 1, 2]]),
        torch.zeros(1, 3, 1, dtype=torch.long),
        links,
        links,
        torch.tensor([[7, 7, 7]]),
        6,
    )
    assert bool(((path >= -1) & (path < 3)).all())
    assert 0 <= accept_length.item() < 6


def test_refusals_name_the_argument() -> None:
    tokens = torch.zeros(1, 3, dtype=torch.long)
    layout = OPS.build_tree(int32([[-1, 0, 0]]), None)[:5]
    cases = [
        ((tokens.int(), *layout, tokens, 2), "tokens must be Long, got Int"),
        ((tokens, *layout, tokens[:, :2], 2), r"target_tokens must be \[1, 3\], got \[1, 2\]"),
        ((tokens, *layout, tokens, 0), "max_path must be at least 1, got 0"),
        ((tokens, *layout[:3], layout[3][:, :2], layout[4], tokens, 2), "first_child must be"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=f"accept_tree: {message}"):
            OPS.accept_tree(*arguments)


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
def test_sample_tokens(weights: list[int], coin: int) -> None:
    probs = torch.tensor([float(weight) for weight in weights])
    got = OPS.sample_tokens(probs[None], torch.tensor([coin / 64]))
    assert got.tolist() == [first_past(probs.tolist(), coin / 64)]


@pytest.mark.parametrize("vocab", [8192, 8193, 20_001])
def test_sample_tokens_of_a_large_vocabulary(vocab: int) -> None:
    """Every part of a row that is summed in parts, and both ends of the coin."""
    torch.manual_seed(vocab)
    weights = torch.randint(0, 3, (vocab,)).float()
    weights[-5:] = 0
    coins = torch.linspace(0, 1, 200)
    got = OPS.sample_tokens(weights.expand(200, vocab), coins).tolist()
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
def test_a_row_that_is_no_distribution_yields_no_token(row: list[float]) -> None:
    assert OPS.sample_tokens(torch.tensor([row]), torch.tensor([0.3])).tolist() == [-1]


@pytest.mark.parametrize("coin", [-1.0, 2.0, torch.nan, torch.inf])
def test_a_wild_coin_still_lands_on_mass(coin: float) -> None:
    probs = torch.tensor([[0.0, 0.5, 0.5, 0.0]])
    assert OPS.sample_tokens(probs, torch.tensor([coin])).item() in (1, 2)


def test_leading_dims_are_kept() -> None:
    probs = torch.eye(5).expand(2, 3, 5, 5)
    assert OPS.sample_tokens(probs, torch.rand(2, 3, 5)).tolist() == [[[0, 1, 2, 3, 4]] * 3] * 2
    assert OPS.sample_tokens(probs[0, 0, 2], torch.tensor(0.5)).item() == 2
    assert OPS.sample_tokens(torch.zeros(0, 4), torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("probs", "uniform", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3), "uniform must be"),
        (torch.zeros(2, 3).double(), torch.zeros(2), "probs must be Float"),
        (torch.zeros(2, 3), torch.zeros(2).half(), "uniform must be Float"),
        (torch.tensor(1.0), torch.zeros(2), r"probs must be \[..., V\]"),
    ],
)
def test_sample_tokens_refuses_by_name(probs: Tensor, uniform: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"sample_tokens: {message}"):
        OPS.sample_tokens(probs, uniform)
