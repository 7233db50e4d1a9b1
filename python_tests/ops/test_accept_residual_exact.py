"""`accept_tree_residual` has the target's distribution: proved by enumeration, in fractions.

All draws of the children, all outcomes of all coins, every order, duplicates included. Broken rules
must fail the same proof.
"""

from __future__ import annotations

import pytest
import torch
from residual_runners import each_runner, logits_run_by, runs_by
from residual_runs import Game, prove_exact

from sparrow_kernels import Acceptance
from sparrow_kernels.ops.accept import residual

Rows = tuple[tuple[int, ...], ...]

# Masses in 16ths: exact in float32. Every target meets several drafts, both with zeros.
TARGETS_OF_3 = (
    (16, 0, 0), (8, 8, 0), (0, 4, 12), (5, 0, 11), (1, 2, 13), (6, 5, 5), (0, 0, 16), (10, 3, 3),
)  # fmt: skip
DRAFTS_OF_3 = (
    (4, 4, 8), (12, 2, 2), (1, 14, 1), (8, 0, 8), (6, 5, 5), (0, 0, 16), (3, 13, 0), (2, 7, 7),
)  # fmt: skip
TARGETS_OF_4 = (
    (4, 4, 4, 4), (0, 8, 0, 8), (1, 3, 5, 7), (13, 1, 1, 1), (0, 0, 0, 16), (2, 0, 9, 5),
)  # fmt: skip
DRAFTS_OF_4 = (
    (7, 5, 3, 1), (4, 4, 4, 4), (1, 1, 1, 13), (5, 0, 6, 5), (1, 13, 1, 1), (8, 0, 0, 8),
)  # fmt: skip


def pairs(targets: Rows, drafts: Rows, shifts: int) -> list[tuple[tuple[int, ...], ...]]:
    count = len(targets)
    return [(targets[i], drafts[(i + s) % count]) for s in range(shifts) for i in range(count)]


PAIRS_OF_3 = pairs(TARGETS_OF_3, DRAFTS_OF_3, 3)
PAIRS_OF_4 = pairs(TARGETS_OF_4, DRAFTS_OF_4, 4)


def star(siblings: int, target: tuple[int, ...], draft: tuple[int, ...], replacement: bool) -> Game:
    """A root with `siblings` children; the rows below it differ from the root's and another."""
    vocabulary = len(target)
    others = TARGETS_OF_3 if vocabulary == 3 else TARGETS_OF_4
    below = tuple(others[(3 * node + 1) % len(others)] for node in range(siblings))
    # Leaves have no children: their draft row must not matter, so it is one that cannot be drawn.
    unused = ((0,) * (vocabulary - 1) + (16,),) * siblings
    return Game((-1,) + (0,) * siblings, (target, *below), (draft, *unused), replacement)


def two_levels(first: int, siblings: int, replacement: bool) -> Game:
    """A root with 1 to 4 children, of which the first has two of its own and the second one.

    Every node has its own row of both distributions. Without replacement there must be as many
    tokens with mass as there are siblings, so those rows are of four tokens.
    """
    tree = (-1,) + (0,) * siblings + (1, 1) + (2,) * (siblings > 1)
    pairs_of = PAIRS_OF_3 if replacement else PAIRS_OF_4
    chosen = []
    for node in range(len(tree)):
        wanted = 1 if replacement else tree.count(node)
        place = first + 5 * node
        while sum(map(bool, pairs_of[place % len(pairs_of)][1])) < wanted:
            place += 1
        chosen.append(pairs_of[place % len(pairs_of)])
    target, draft = zip(*chosen, strict=True)
    return Game(tree, target, draft, replacement)


# Every pair there is, where that takes seconds. The definition takes a millisecond a request and
# the emulator a few, so they get some of the larger games: one in this many.
SHARE = {
    ("reference", 3): 6, ("reference", 4): 24,
    ("emulated", 2): 4, ("emulated", 3): 12, ("emulated", 4): 24,
}  # fmt: skip


def some(games: list[Game], runner: str, siblings: int, levels: int) -> list[Game]:
    share = SHARE.get((runner, siblings), 1)
    if levels == 2 and runner == "native":
        share = {3: 2, 4: 4}.get(siblings, 1)
    if levels == 2 and runner in ("reference", "emulated"):
        share = {1: 4, 2: 12}.get(siblings, len(games))
    return games[::share]


@pytest.mark.slow
@each_runner
@pytest.mark.parametrize("siblings", [1, 2, 3, 4])
def test_siblings_with_replacement(runner: str, siblings: int) -> None:
    assert len(set(PAIRS_OF_3)) >= 20
    games = [star(siblings, target, draft, replacement=True) for target, draft in PAIRS_OF_3]
    for game in some(games, runner, siblings, 1):
        prove_exact(runs_by(runner), game)


@pytest.mark.slow
@each_runner
@pytest.mark.parametrize("siblings", [1, 2, 3, 4])
def test_siblings_without_replacement(runner: str, siblings: int) -> None:
    enough = [pair for pair in PAIRS_OF_4 if sum(map(bool, pair[1])) >= siblings]
    assert len(set(PAIRS_OF_4)) >= 20
    assert len(enough) >= 12
    games = [star(siblings, target, draft, replacement=False) for target, draft in enough]
    for game in some(games, runner, siblings, 1):
        prove_exact(runs_by(runner), game)


@pytest.mark.slow
@each_runner
@pytest.mark.parametrize("siblings", [1, 2, 3, 4])
@pytest.mark.parametrize("replacement", [True, False], ids=["with", "without"])
def test_two_levels_with_a_row_of_its_own_each_node(
    runner: str, siblings: int, replacement: bool
) -> None:
    games = [two_levels(first, siblings, replacement) for first in range(24)]
    roots = {(game.target[0], game.draft[0]) for game in games}
    assert len(roots) >= (20 if replacement or siblings < 4 else 12)
    for game in some(games, runner, siblings, 2):
        prove_exact(runs_by(runner), game)


@pytest.mark.slow
@each_runner
@pytest.mark.parametrize("replacement", [True, False], ids=["with", "without"])
def test_the_logits_form(runner: str, replacement: bool) -> None:
    """At two temperatures, masked tokens included."""
    games = [two_levels(first, 2, replacement) for first in range(0, 24, 5)]
    games += [star(3, target, draft, replacement) for target, draft in PAIRS_OF_4[1:24:6]
              if replacement or sum(map(bool, draft)) >= 3]  # fmt: skip
    for game in games[:: 4 if runner == "emulated" else 1]:
        prove_exact(logits_run_by(runner, 0.75, 1.5), game)


class TargetNotReduced(residual.Step):
    def _refuse(self, token: int) -> None:
        target = self.target
        super()._refuse(token)
        self.target = target


class DraftNotReduced(residual.Step):
    def _refuse(self, token: int) -> None:
        draft = self.draft
        super()._refuse(token)
        self.draft = draft


class RepeatsNotSkipped(residual.Step):
    def accepts(self, token: int, coin: float) -> bool:
        self.refused.discard(token)
        return super().accepts(token, coin)


BROKEN = {
    "target not reduced": (TargetNotReduced, star(2, (1, 2, 13), (12, 2, 2), True)),
    "draft not reduced": (DraftNotReduced, star(2, (1, 3, 5, 7), (13, 1, 1, 1), False)),
    "repeats not skipped": (RepeatsNotSkipped, star(3, (1, 2, 13), (12, 2, 2), True)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_fails_the_proof(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step, game = BROKEN[name]
    prove_exact(runs_by("reference"), game)
    monkeypatch.setattr(residual, "Step", step)
    with pytest.raises(AssertionError, match="biased at node 0"):
        prove_exact(runs_by("reference"), game)


@pytest.mark.parametrize("argument", ["target_probs", "draft_probs"])
def test_rows_of_the_wrong_node_fail_the_proof(argument: str) -> None:
    game = two_levels(0, 2, replacement=True)
    above = torch.tensor([0, *game.tree[1:]])

    def rows_of_the_parent(**arguments: torch.Tensor) -> Acceptance:
        arguments[argument] = arguments[argument][:, above].contiguous()
        return runs_by("reference")(**arguments)

    with pytest.raises(AssertionError, match="biased at node [1-5]"):
        prove_exact(rows_of_the_parent, game)
