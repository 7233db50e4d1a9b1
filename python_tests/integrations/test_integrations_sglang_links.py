"""Trees that are numbered anyhow: verification follows their links, as sgl-kernel does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from residual_runners import RUNNERS
from sglang_cases import (
    EIGHTHS,
    UNTOUCHED,
    Links,
    Sampled,
    decide,
    expect,
    greedy,
    linked,
    links,
    middles,
    ops_of,
    renumbered,
    verify,
)
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from tree_cases import random_tree

from sparrow_kernels import checks
from sparrow_kernels.integrations.sglang import (
    tree_speculative_sampling_target_only,
    verify_tree_greedy,
)


@pytest.fixture(params=RUNNERS)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with ops_of(request.param) as device:
        yield device


# Trees of sgl-kernel's own tests of both calls: in the second, the root's first child is node 4,
# the next one node 1. What follows each node is a token that stands out, elsewhere 18.
ITS_LINKS: list[Links] = [
    ([1, 2, -1, 4, 5, -1], [-1, 3, -1, -1, -1, -1]),
    ([4, 2, 3, -1, 5, -1], [-1, -1, -1, -1, 1, -1]),
]
ITS_TOKENS = [[0, 1, 2, 3, 4, 5], [7, 8, 9, 10, 11, 12]]
ITS_TARGET = [[3, 18, 18, 4, 5, 18], [11, 18, 18, 18, 12, 18]]
# Written to predicts and accept_index, -1 where nothing is; accepted tokens.
ITS_ANSWER = (
    [3, -1, -1, 4, 5, 18, 11, -1, -1, -1, 12, 18],
    [[0, 3, 4, 5], [6, 10, 11, -1]],
    [3, 2],
)
ITS_ANSWERS = {
    1.0: ITS_ANSWER,
    0.0: ([1, 2, 18, -1, -1, -1, 11, -1, -1, -1, 12, 18], [[0, 1, 2, -1], [6, 10, 11, -1]], [2, 2]),
}


def test_its_own_greedy_trees(device: str) -> None:
    call = verify(ITS_LINKS, ITS_TOKENS, ITS_TARGET, 4, device)
    written = [call.predicts[:12], call.accept_index]
    got = [torch.where(each == UNTOUCHED, -1, each).tolist() for each in written]
    assert (*got, call.accept_token_num.tolist()) == ITS_ANSWER


@pytest.mark.parametrize("threshold", ITS_ANSWERS)
@pytest.mark.parametrize("coin", [0.125, 0.5, 1.0])
def test_its_own_sampled_trees(threshold: float, coin: float, device: str) -> None:
    call = linked(ITS_LINKS, 4, device)
    call.retrieve = tuple(each.int() for each in call.retrieve)
    target = torch.nn.functional.one_hot(torch.tensor(ITS_TARGET, device=device), 20).float()
    tree_speculative_sampling_target_only(
        call.predicts,
        call.accept_index,
        call.accept_token_num,
        torch.tensor(ITS_TOKENS, device=device),
        *call.retrieve,
        torch.full((2, 6), coin, device=device),
        torch.full((2,), coin, device=device),
        target,
        torch.zeros_like(target),
        threshold,
        threshold,
    )
    written = [call.predicts[:12], call.accept_index]
    got = [torch.where(each == UNTOUCHED, -1, each).tolist() for each in written]
    assert (*got, call.accept_token_num.tolist()) == ITS_ANSWERS[threshold]


def drawn_numbers(nodes: int, draw: random.Random) -> list[int]:
    """Any numbers for nodes 1, 2, ..."""
    return [0, *draw.sample(range(1, nodes), nodes - 1)]


def acyclic(nodes: int, draw: random.Random) -> Links:
    """Links that lead on in some order of the nodes; several may lead to one."""
    pair: Links = ([-1] * nodes, [-1] * nodes)
    for node in range(nodes - 1):
        for row in pair:
            if draw.random() < 0.8:
                row[node] = draw.randint(node + 1, min(node + 4, nodes - 1))
    return renumbered(pair, drawn_numbers(nodes, draw))


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("nodes", [2, 3, 6, 17, 40, 66])
def test_greedy_follows_links_without_a_cycle(nodes: int, checked: bool, device: str) -> None:
    draw = random.Random(nodes)
    pairs = [acyclic(nodes, draw) for _ in range(30)]
    for seed in range(30):
        pairs.append(renumbered(links(random_tree(nodes, seed)), drawn_numbers(nodes, draw)))
    chain = renumbered(links(list(range(-1, nodes - 1))), drawn_numbers(nodes, draw))
    star = renumbered(links([-1] + [0] * (nodes - 1)), drawn_numbers(nodes, draw))
    pairs += [chain, star]
    tokens = [[draw.randrange(3) for _ in range(nodes)] for _ in pairs[:-2]] + [[1] * nodes] * 2
    target = [[draw.randrange(3) for _ in range(nodes)] for _ in pairs[:-2]] + [[1] * nodes] * 2
    with checks(checked):
        call = verify(pairs, tokens, target, nodes, device)
    walks = [greedy(*each, nodes) for each in zip(pairs, tokens, target, strict=True)]
    expect(call, *zip(*walks, strict=True))
    assert len(walks[-2][0]) == nodes and len(walks[-1][0]) == 2
    assert nodes < 6 or any(sorted(path) != path for path, _ in walks[:-2])


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("thresholds", [(1.0, 1.0), (0.375, 0.25)])
@pytest.mark.parametrize("nodes", [2, 3, 7, 20])
def test_sampling_tries_siblings_in_the_order_of_links(
    nodes: int, thresholds: tuple[float, float], checked: bool, device: str
) -> None:
    """By the rule for the same tree with rising numbers, twins among its nodes."""
    draw = random.Random(nodes)
    vocabulary, most_nodes = 6, 4
    for seed in range(12):
        tree, numbers = random_tree(nodes, seed), drawn_numbers(nodes, draw)
        tokens = tuple(draw.randrange(vocabulary) for _ in tree)
        counts = [Counter(draw.choices(range(vocabulary), k=EIGHTHS)) for _ in tree]
        target = tuple(tuple(count[x] for x in range(vocabulary)) for count in counts)
        coins = [tuple(draw.choice(middles(64)) for _ in tree) for _ in range(10)]
        final = [draw.choice(middles(840)) for _ in range(10)]
        with checks(checked):
            done = Sampled(
                tree, tokens, target, coins, final, most_nodes, device, thresholds, numbers
            )
        exact = [[Fraction(mass, EIGHTHS) for mass in row] for row in target]
        walks = [
            decide(tree, tokens, exact, *pair, most_nodes, *map(Fraction, thresholds))
            for pair in zip(coins, final, strict=True)
        ]
        paths = [[numbers[node] for node in walk[0]] for walk in walks]
        expect(done.call, paths, [walk[1] for walk in walks])
        draft = torch.zeros_like(done.draft)
        for b, walk in enumerate(walks):
            for row, token in walk[2]:
                draft[b, numbers[row], token] = done.target[b, numbers[row], token]
        assert torch.equal(done.draft, draft)


def test_unchecked_nothing_depends_on_values() -> None:
    """Fake tensors have no values: what would wait for a device, or for a graph, raises."""
    with FakeTensorMode() as mode, checks(False):
        call = linked(ITS_LINKS, 4, "cpu")
        results = (call.predicts, call.accept_index, call.accept_token_num)
        tokens, coins = torch.zeros(2, 6, dtype=torch.int64), torch.rand(2, 6)
        target = torch.rand(2, 6, 20)
        verify_tree_greedy(*results, tokens, *call.retrieve, tokens)
        tree_speculative_sampling_target_only(
            *results, tokens, *call.retrieve, coins, coins[:, 0].clone(), target, target.clone()
        )
        assert all(mode.is_our_fake(each) for each in results)
        with pytest.raises(DataDependentOutputException):
            call.predicts[0].item()
