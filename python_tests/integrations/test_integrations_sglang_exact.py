"""Sampled verification in sgl-kernel's encoding has the target's distribution: by enumeration.

Target masses are in eighths and coins stand in the middle of equal intervals, so that no coin meets
a bound and every interval counts alike: the law of what is emitted is a count.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
from sglang_cases import EIGHTHS, Rows, Sampled, decide, middles
from tree_cases import Tree, children

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
# Tree, tokens, target rows in eighths, most nodes on a path.
Game = tuple[Tree, tuple[int, ...], Rows, int]
STAR: Tree = [-1, 0, 0, 0]
GAMES: dict[str, Game] = {
    "one child": ([-1, 0], (0, 1), ((1, 5, 2), (3, 3, 2)), 3),
    "three children": (STAR, (0, 2, 0, 3), ((1, 2, 4, 1), *((2, 2, 2, 2),) * 3), 2),
    "all mass drafted": (STAR, (0, 0, 1, 2), ((1, 5, 2), *((3, 3, 2),) * 3), 2),
    "a child without mass": (STAR, (0, 1, 0, 2), ((3, 0, 2, 3), *((1, 1, 6, 0),) * 3), 2),
    "twins": ([-1, 0, 0], (0, 1, 1), ((2, 3, 3), *((4, 2, 2),) * 2), 2),
    "twins apart": (STAR, (0, 2, 0, 2), ((1, 4, 3), *((4, 2, 2),) * 3), 2),
    "triplets": (STAR, (0, 1, 1, 1), ((1, 4, 3), *((4, 2, 2),) * 3), 2),
    "twins without mass": (STAR, (0, 1, 1, 0), ((5, 0, 3), *((4, 2, 2),) * 3), 2),
    "path ends at its limit": ([-1, 0, 1, 1], (0, 1, 2, 0), ((1, 4, 3),) * 4, 2),
    "two levels": ([-1, 0, 0, 1, 1], (0, 1, 0, 2, 0), ((2, 3, 3), (1, 6, 1), *((5, 2, 1),) * 3), 4),
    "two levels of twins": (
        [-1, 0, 0, 1, 1, 2],
        (0, 1, 1, 0, 0, 2),
        ((2, 3, 3), (3, 4, 1), *((5, 2, 1),) * 4),
        4,
    ),
}
WITH_TWINS = [name for name in GAMES if "twins" in name or name == "triplets"]


def final_intervals(game: Game) -> int:
    """So many intervals of the bonus's coin that a step of no residual falls inside one."""
    tree, tokens, target, _ = game
    left = [
        EIGHTHS - sum(row[x] for x in {tokens[child] for child in children(tree, node)})
        for node, row in enumerate(target)
    ]
    return math.lcm(EIGHTHS, *filter(None, left))


def all_coins(game: Game) -> tuple[list, list]:
    """Coins of inner nodes and of the bonus, all combinations; a leaf's coin decides nothing."""
    tree = game[0]
    axes = [middles(EIGHTHS) if node in tree else [Fraction(1, 2)] for node in range(len(tree))]
    pairs = list(itertools.product(itertools.product(*axes), middles(final_intervals(game))))
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def law_of_each_step(game: Game, emitted: list[tuple[int, ...]]) -> dict[int, list[Fraction]]:
    """How often each token follows each node that a path reaches."""
    tree, tokens, target, _ = game
    after: dict[int, Counter[int]] = {}
    for row in emitted:
        node = 0
        for token in row:
            after.setdefault(node, Counter())[token] += 1
            node = next((c for c in children(tree, node) if tokens[c] == token), 0)
    vocabulary = len(target[0])
    return {
        node: [Fraction(count[x], count.total()) for x in range(vocabulary)]
        for node, count in after.items()
    }


def expected_laws(game: Game, reached: dict[int, list[Fraction]]) -> dict[int, list[Fraction]]:
    return {node: [Fraction(mass, EIGHTHS) for mass in game[2][node]] for node in reached}


@pytest.mark.slow
@DEVICES
@pytest.mark.parametrize("name", GAMES)
def test_what_is_emitted_has_the_targets_distribution(name: str, device: str) -> None:
    game = GAMES[name]
    tree, tokens, target, most_nodes = game
    coins, final = all_coins(game)
    laws = law_of_each_step(
        game, Sampled(tree, tokens, target, coins, final, most_nodes, device).emitted()
    )
    assert laws == expected_laws(game, laws)
    assert len(laws) > 1, "no child was ever accepted"


@pytest.mark.slow
@pytest.mark.parametrize("name", GAMES)
def test_counting_repeats_is_biased_for_twins_only(name: str) -> None:
    """The proof above would find sgl-kernel's rule out; without twins it is ours."""
    game = GAMES[name]
    tree, tokens, target, most_nodes = game
    exact = [[Fraction(mass, EIGHTHS) for mass in row] for row in target]
    emitted = [
        tuple(decide(tree, tokens, exact, *pair, most_nodes, counts_repeats=True)[1])
        for pair in zip(*all_coins(game), strict=True)
    ]
    laws = law_of_each_step(game, emitted)
    is_biased = name in WITH_TWINS and name != "twins without mass"
    assert (laws != expected_laws(game, laws)) == is_biased
    if name == "twins":
        assert laws[0] == [Fraction(2, 20), Fraction(15, 20), Fraction(3, 20)]
