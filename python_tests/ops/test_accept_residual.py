"""`accept_tree_residual` on drawn trees and coins, against the rule in plain Python fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from residual_rule import run
from tree_cases import Tree, each_backend, forests, padded, random_tree, strided

from sparrow_kernels import accept_tree_residual, build_tree, sample_tokens
from sparrow_kernels.ops import env
from sparrow_kernels.ops.accept.ops import ACCEPT_TREE_RESIDUAL

RUNS = each_backend(ACCEPT_TREE_RESIDUAL)
V = 4
# Masses in 1/16ths, zeros often, and coins in 1/1024ths plus half of one: none on a threshold.
ROW = st.lists(st.sampled_from([0, 0, 1, 2, 5, 8]), min_size=V, max_size=V).filter(any)
COIN = st.integers(0, 1023).map(lambda k: (k + 0.5) / 1024)


def rows_of(data: st.DataObject, element: st.SearchStrategy, batch: int, size: int) -> list[list]:
    drawn = st.lists(element, min_size=size, max_size=size)
    return [data.draw(drawn) for _ in range(batch)]


@pytest.mark.slow
@RUNS
@given(forests(max_nodes=8), st.integers(1, 5), st.data())
@settings(max_examples=80, deadline=None)
def test_drawn_walks(
    backend: str, drawn: tuple[list[Tree], int], max_path: int, data: st.DataObject
) -> None:
    batch, size = drawn
    tokens = rows_of(data, st.integers(0, V - 1), len(batch), size)
    target = rows_of(data, ROW, len(batch), size)
    draft = rows_of(data, ROW, len(batch), size)
    coins = rows_of(data, COIN, len(batch), size)
    bonus = [data.draw(COIN) for _ in batch]
    with env.backend(backend):
        accepted = accept_tree_residual(
            torch.tensor(tokens),
            build_tree(*padded(batch, size)),
            torch.tensor(target).float(),
            torch.tensor(draft).float(),
            torch.tensor(coins),
            torch.tensor(bonus),
            max_path,
        )
    for b, tree in enumerate(batch):
        path, emitted, margin = run(
            tree, tokens[b], target[b], draft[b], coins[b], bonus[b], max_path
        )
        if margin < Fraction(1, 10**9):
            continue  # a coin on a threshold: either side is right
        padding = [-1] * (max_path - len(path))
        assert accepted.path[b].tolist() == path + padding
        assert accepted.tokens[b].tolist() == emitted + padding
        assert accepted.accept_length[b] == len(path) - 1


@RUNS
@pytest.mark.parametrize("size", [1, 30, 65])
def test_soft_rows_of_a_larger_vocabulary(backend: str, size: int) -> None:
    """Strided inputs; children really sampled from their parent's row; the rule in fractions."""
    generator = torch.Generator().manual_seed(size)
    batch = [random_tree(size, seed) for seed in range(3)]
    shape = (3, size, 50)
    target = torch.randn(shape, generator=generator).mul(2).softmax(-1)
    draft = torch.randn(shape, generator=generator).add(4 * target).softmax(-1)
    tokens = torch.zeros(3, size, dtype=torch.int64)
    for b, tree in enumerate(batch):
        for node in range(1, size):
            tokens[b, node] = torch.multinomial(draft[b, tree[node]], 1, generator=generator)
    coins = torch.rand(3, size, generator=generator)
    bonus = torch.rand(3, generator=generator)
    layout = build_tree(torch.tensor(batch, dtype=torch.int32))
    for max_path in (1, 3, 20):
        with env.backend(backend):
            accepted = accept_tree_residual(
                strided(tokens), layout, strided(target), strided(draft), strided(coins), bonus,
                max_path,
            )  # fmt: skip
        for b, tree in enumerate(batch):
            path, emitted, _ = run(
                tree, tokens[b].tolist(), target[b].tolist(), draft[b].tolist(),
                coins[b].tolist(), bonus[b].item(), max_path,
            )  # fmt: skip
            padding = [-1] * (max_path - len(path))
            assert accepted.path[b].tolist() == path + padding
            assert accepted.tokens[b].tolist() == emitted + padding


def case(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """One sound call: a root with two children and a grandchild, then an idle request."""
    parent = torch.tensor([[-1, 0, 0, 1], [-1, 0, 0, 0]], dtype=torch.int32)
    arguments = {
        "tokens": torch.tensor([[9, 1, 2, 3], [77, -5, 99, 0]]),
        "layout": build_tree(parent, torch.tensor([4, 0], dtype=torch.int32)),
        "target_probs": torch.full((2, 4, V), 0.25),
        "draft_probs": torch.full((2, 4, V), 0.25),
        "uniform": torch.full((2, 4), 0.5),
        "bonus_uniform": torch.full((2,), 0.5),
    }
    return arguments | changes


@RUNS
def test_what_a_walk_cannot_reach_is_not_read(backend: str) -> None:
    """NaN in the rows and coins of padding, of idle requests, in the draft rows of leaves."""
    clean, dirty = case(), case()
    for name in ("target_probs", "draft_probs", "uniform", "bonus_uniform"):
        dirty[name][1] = math.nan
    dirty["draft_probs"][0, 2:] = math.nan
    dirty["uniform"][0, 0] = math.nan
    dirty["tokens"][0, 0] = 10**12
    with env.backend(backend):
        for checked in (True, False):
            with env.checks(checked):
                expected = accept_tree_residual(**clean, max_path=3)
                accepted = accept_tree_residual(**dirty, max_path=3)
            for one, other in zip(accepted, expected, strict=True):
                assert torch.equal(one, other)
    assert expected.path.tolist() == [[0, 1, 3], [-1, -1, -1]]
    assert expected.accept_length.tolist() == [2, -1]


@RUNS
def test_equal_distributions_accept_the_first_draw(backend: str) -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.rand(64, 3, 30, generator=generator).softmax(-1)
    layout = build_tree(torch.tensor([[-1, 0, 1]] * 64, dtype=torch.int32))
    tokens = torch.randint(0, 30, (64, 3), generator=generator)
    coins, last_coins = torch.rand(64, 3, generator=generator), torch.rand(64, generator=generator)
    with env.backend(backend):
        accepted = accept_tree_residual(tokens, layout, rows, rows, coins, last_coins, 3)
        bonus = sample_tokens(rows[:, 2], last_coins)
    assert accepted.accept_length.tolist() == [2] * 64
    assert torch.equal(accepted.tokens[:, 2], bonus)


@RUNS
def test_a_coin_of_one_that_leaves_nothing_falls_back_to_the_target(backend: str) -> None:
    rows = torch.tensor([0.5, 0.25, 0.25, 0.0]).repeat(1, 2, 1)
    layout = build_tree(torch.tensor([[-1, 0]], dtype=torch.int32))
    tokens, ones = torch.tensor([[0, 0]]), torch.ones(1, 2)
    with env.backend(backend):
        for coin, token in ((0.0, 0), (0.45, 0), (0.6, 1), (1.0, 2)):
            bonus = torch.tensor([coin])
            accepted = accept_tree_residual(tokens, layout, rows, rows, ones, bonus, 2)
            assert accepted.tokens.tolist() == [[token, -1]]


BAD = {
    "target_probs": [("NaN", math.nan), ("negative", -0.5), ("infinite", math.inf)],
    "draft_probs": [("NaN", math.nan), ("negative", -0.5), ("infinite", math.inf)],
    "uniform": [("NaN", math.nan), ("negative", -0.5), ("above one", 1.5)],
    "bonus_uniform": [("NaN", math.nan), ("negative", -0.5), ("above one", 1.5)],
    "tokens": [("negative", -1), ("V", V), ("far", 2**62), ("far below", -(2**62))],
}


@RUNS
@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in BAD.items() for _, v in values]
)
def test_bad_values(backend: str, name: str, value: float) -> None:
    bad = case()
    where = {"target_probs": (0, 2, 1), "draft_probs": (0, 1, 1), "bonus_uniform": (0,)}
    bad[name][where.get(name, (0, 1))] = value
    with pytest.raises(ValueError, match=rf"accept_tree_residual: {name} must be .*{name}\[0\]"):
        accept_tree_residual(**bad, max_path=3)
    with env.backend(backend), env.checks(False):
        path, accept_length, tokens = accept_tree_residual(**bad, max_path=3)
    assert ((tokens >= -1) & (tokens < V)).all()
    assert path[0, 0] == 0
    assert 0 <= accept_length[0] <= 2
    assert (path[1] == -1).all()


@RUNS
def test_no_mass_anywhere(backend: str) -> None:
    bad = case(target_probs=torch.zeros(2, 4, V))
    with pytest.raises(ValueError, match=r"target_probs\[0\]\[0\] with minimum 0.0 and sum 0.0"):
        accept_tree_residual(**bad, max_path=3)
    with env.backend(backend), env.checks(False):
        accepted = accept_tree_residual(**bad, max_path=3)
    assert accepted.path[0].tolist() == [0, -1, -1]
    assert accepted.tokens[0].tolist() == [-1, -1, -1]


@RUNS
def test_a_token_out_of_the_vocabulary_is_skipped(backend: str) -> None:
    bad = case()
    bad["tokens"][0, 1] = V
    with env.backend(backend), env.checks(False):
        accepted = accept_tree_residual(**bad, max_path=3)
    assert accepted.path[0].tolist() == [0, 2, -1]


def test_wrong_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match="target_probs must be float32, got float64"):
        accept_tree_residual(**case(target_probs=torch.ones(2, 4, V).double()), max_path=3)
    with pytest.raises(ValueError, match=r"draft_probs must be \[B, T, V\] = \[2, 4, 4\], got"):
        accept_tree_residual(**case(draft_probs=torch.ones(2, 4, V + 1)), max_path=3)
    with pytest.raises(ValueError, match=r"bonus_uniform must be \[B\] = \[2\], got \[3\]"):
        accept_tree_residual(**case(bonus_uniform=torch.ones(3)), max_path=3)
    with pytest.raises(ValueError, match="max_path must be at least 1"):
        accept_tree_residual(**case(), max_path=0)
