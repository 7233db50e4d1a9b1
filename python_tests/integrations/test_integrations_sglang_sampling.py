"""sgl-kernel's sampled verification over our ops: its rule, its edges, its buffers."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

import pytest
import torch
from sglang_cases import (
    EIGHTHS,
    Sampled,
    decide,
    expect,
    middles,
    runs_without_a_sync,
    verification,
)
from torch import Tensor
from tree_cases import random_tree

from sparrow_kernels import checks
from sparrow_kernels.integrations.sglang import tree_speculative_sampling_target_only
from sparrow_kernels.testing import GuardRows

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
FINAL = 840  # so many intervals of the bonus's coin: every sum of eighths divides them


@DEVICES
@pytest.mark.parametrize("thresholds", [(1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.375, 0.25), (0, 0)])
@pytest.mark.parametrize("nodes", [1, 2, 7, 20])
def test_against_the_rule(nodes: int, thresholds: tuple[float, float], device: str) -> None:
    """Random trees, twins among them: paths, tokens, and what is left in draft_probs."""
    draw = random.Random(nodes)
    vocabulary, most_nodes = 6, 4
    for seed in range(12):
        tree = random_tree(nodes, seed)
        tokens = tuple(draw.randrange(vocabulary) for _ in tree)
        counts = [Counter(draw.choices(range(vocabulary), k=EIGHTHS)) for _ in tree]
        target = tuple(tuple(count[x] for x in range(vocabulary)) for count in counts)
        coins = [tuple(draw.choice(middles(64)) for _ in tree) for _ in range(20)]
        final = [draw.choice(middles(FINAL)) for _ in range(20)]
        done = Sampled(tree, tokens, target, coins, final, most_nodes, device, thresholds)
        exact = [[Fraction(mass, EIGHTHS) for mass in row] for row in target]
        single, acc = (Fraction(threshold) for threshold in thresholds)
        walks = [
            decide(tree, tokens, exact, *pair, most_nodes, single, max(acc, Fraction(1, 10**9)))
            for pair in zip(coins, final, strict=True)
        ]
        expect(done.call, [walk[0] for walk in walks], [walk[1] for walk in walks])
        draft = torch.zeros_like(done.draft)
        for b, walk in enumerate(walks):
            for row, token in walk[2]:
                draft[b, row, token] = done.target[b, row, token]
        assert torch.equal(done.draft, draft)


def one_step(
    row: list[float],
    tokens: list[int],
    coin: float,
    draft: Tensor | None = None,
    final: float = 0.5,
) -> tuple[int, int]:
    """Siblings with `tokens` under a root: how many were accepted, and the first emitted token."""
    tree = [-1] + [0] * len(tokens)
    call = verification([tree], 2, "cpu")
    probs = torch.tensor([[row] * len(tree)])
    tree_speculative_sampling_target_only(
        call.predicts,
        call.accept_index,
        call.accept_token_num,
        torch.tensor([[0, *tokens]]),
        *call.retrieve,
        torch.full((1, len(tree)), coin),
        torch.tensor([final]),
        probs,
        torch.zeros_like(probs) if draft is None else draft,
        1.0,
        1.0,
        True,
    )
    return int(call.accept_token_num), int(call.predicts[0])


def test_a_coin_on_the_bound_accepts() -> None:
    assert one_step([0.25, 0.5, 0.25], [1], 0.5) == (1, 1)
    assert one_step([0.25, 0.5, 0.25], [0, 1], 0.75) == (1, 1)
    assert one_step([0.25, 0.5, 0.25], [1], 0.5 + 2**-24)[0] == 0


def test_a_coin_of_zero_accepts_nothing_without_mass() -> None:
    assert one_step([0.0, 0.5, 0.5], [0], 0.0) == (0, 2)
    assert one_step([0.0, 0.5, 0.5], [0, 1], 0.0) == (1, 1)


def test_where_rounding_left_nothing_the_row_itself_decides() -> None:
    """The children hold all mass, but their float32 sum is below 1 and below the coin."""
    row = [0.5, 0.5 - 2**-25]
    assert one_step(row, [0, 1], 1.0, final=0.1) == (0, 0)
    assert one_step(row, [0, 1], 1.0, final=0.9) == (0, 1)


def test_other_draft_probabilities_are_subtracted() -> None:
    """As in sgl-kernel: callers hand zeros."""
    draft = torch.tensor([[[0.0, 0.25, 0.0], [0.0, 0.0, 0.0]]])
    assert one_step([0.5, 0.25, 0.25], [0], 0.75, draft, final=0.0) == (0, 2)
    assert draft[0, 0].tolist() == [0.5, 0.25, 0.0]


def test_where_the_path_is_full_nothing_is_subtracted() -> None:
    draft = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    assert one_step([0.5, 0.5], [0], 0.5, draft, final=0.0) == (1, 0)
    tree, probs = [-1, 0], torch.full((1, 2, 2), 0.5)
    call = verification([tree], 2, "cpu")
    results = (call.predicts, call.accept_index, call.accept_token_num)
    coins, final = torch.zeros(1, 2), torch.zeros(1)
    tree_speculative_sampling_target_only(
        *results, torch.tensor([[0, 1]]), *call.retrieve, coins, final, probs, draft
    )
    expect(call, [[0, 1]], [[1, 0]])


@pytest.mark.parametrize("token", [-1, 3, 2**40])
def test_a_token_out_of_the_vocabulary_is_refused(token: int) -> None:
    assert one_step([0.5, 0.25, 0.25], [token, 0], 0.4) == (1, 0)


def test_a_row_that_cannot_be_sampled_from() -> None:
    nothing = [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="sample_tokens: probs must be"):
        one_step(nothing, [0], 0.5)
    with checks(False):
        assert one_step(nothing, [0], 0.5) == (0, -1)


@pytest.mark.parametrize("seed", range(10))
def test_junk_links_stay_inside(seed: int) -> None:
    draw, guards = torch.Generator().manual_seed(seed), GuardRows()
    junk = torch.randint(-9, 20, (3, 2, 5), generator=draw)
    index, next_token, next_sibling = torch.where(junk == 13, 2**33 + 1, junk)
    predicts = guards.empty(10, dtype=torch.int32)
    accept_index = guards.empty(2, 3, dtype=torch.int32)
    count = guards.empty(2, dtype=torch.int32)
    target = torch.rand(2, 5, 4, generator=draw)
    draft = guards.empty(2, 5, 4).zero_()
    with checks(False):
        tree_speculative_sampling_target_only(
            predicts,
            accept_index,
            count,
            torch.randint(-2, 6, (2, 5), generator=draw),
            index,
            next_token,
            next_sibling,
            torch.rand(2, 5, generator=draw),
            torch.rand(2, generator=draw),
            target,
            draft,
            1.0,
            1.0,
        )
    guards.check()
    assert bool(((count >= 0) & (count < 3)).all())
    assert bool(((draft == 0) | (draft == target)).all())


BAD = {
    "threshold": ({"thresholds": (1.5, 1.0)}, r"threshold_single must be in \[0, 1\], got 1.5"),
    "acc": ({"thresholds": (1.0, -0.1)}, r"threshold_acc must be in \[0, 1\], got -0.1"),
    "coins": (
        {"coins": [(Fraction(1, 2),) * 4]},
        r"uniform_samples must be \[1, 2\], got \[1, 4\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    changes, message = BAD[name]
    coins: dict = {"coins": [(Fraction(1, 2),) * 2], "final": [Fraction(1, 2)]} | changes
    with pytest.raises(ValueError, match=message):
        Sampled([-1, 0], (0, 1), ((1, 5, 2), (3, 3, 2)), most_nodes=3, **coins)


@pytest.mark.gpu
def test_sampling_does_not_wait_for_the_gpu() -> None:
    call = verification([random_tree(9, seed) for seed in range(4)], 4, "cuda")
    tokens = torch.randint(0, 7, (4, 9), device="cuda")
    coins, final = torch.rand(4, 9, device="cuda"), torch.rand(4, device="cuda")
    target = torch.rand(4, 9, 7, device="cuda")
    draft = torch.zeros_like(target)
    results = (call.predicts, call.accept_index, call.accept_token_num)

    def run() -> None:
        arguments = (tokens, *call.retrieve, coins, final, target, draft)
        tree_speculative_sampling_target_only(*results, *arguments, 1.0, 1.0, True)

    runs_without_a_sync(run)
