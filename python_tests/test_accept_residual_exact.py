"""`accept_tree_residual` has the target's distribution: proved by enumeration, in fractions.

All draws of the children, all outcomes of all coins, every order, duplicates included. Broken rules
must fail the same proof.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from residual_runs import Game, prove_exact
from tree_cases import each_backend

from sparrow_kernels import Acceptance, accept_tree_residual
from sparrow_kernels.ops import env
from sparrow_kernels.ops.accept import residual
from sparrow_kernels.ops.accept.ops import ACCEPT_TREE_RESIDUAL

RUNS = each_backend(ACCEPT_TREE_RESIDUAL)
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


def two_levels(first: int, replacement: bool) -> Game:
    """A root with two children, the first with two of its own and the second with one."""
    tree = (-1, 0, 0, 1, 1, 2)
    chosen = [PAIRS_OF_3[(first + 5 * node) % len(PAIRS_OF_3)] for node in range(len(tree))]
    target, draft = zip(*chosen, strict=True)
    if not replacement:  # two draws without replacement need two tokens with mass
        draft = tuple(row if sum(map(bool, row)) > 1 else (4, 4, 8) for row in draft)
    return Game(tree, target, draft, replacement)


def run_backend(backend: str) -> Callable[..., Acceptance]:
    def run(**arguments: object) -> Acceptance:
        with env.backend(backend):
            return accept_tree_residual(**arguments)  # type: ignore[arg-type]

    return run


@RUNS
@pytest.mark.parametrize("siblings", [1, 2, 3, 4])
def test_siblings_with_replacement(backend: str, siblings: int) -> None:
    assert len(set(PAIRS_OF_3)) >= 20
    for target, draft in PAIRS_OF_3:
        prove_exact(run_backend(backend), star(siblings, target, draft, replacement=True))


@RUNS
@pytest.mark.parametrize("siblings", [1, 2, 3, 4])
def test_siblings_without_replacement(backend: str, siblings: int) -> None:
    enough = [pair for pair in PAIRS_OF_4 if sum(map(bool, pair[1])) >= siblings]
    assert len(set(PAIRS_OF_4)) >= 20
    assert len(enough) >= 12
    for target, draft in enough:
        prove_exact(run_backend(backend), star(siblings, target, draft, replacement=False))


@RUNS
@pytest.mark.parametrize("replacement", [True, False])
def test_two_levels_with_a_row_of_its_own_each_node(backend: str, replacement: bool) -> None:
    for first in range(0, len(PAIRS_OF_3), 4):
        prove_exact(run_backend(backend), two_levels(first, replacement))


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
    prove_exact(run_backend("reference"), game)
    monkeypatch.setattr(residual, "Step", step)
    with pytest.raises(AssertionError, match="biased at node 0"):
        prove_exact(run_backend("reference"), game)


@pytest.mark.parametrize("argument", ["target_probs", "draft_probs"])
def test_rows_of_the_wrong_node_fail_the_proof(argument: str) -> None:
    game = two_levels(0, replacement=True)
    above = torch.tensor([0, *game.tree[1:]])

    def rows_of_the_parent(**arguments: torch.Tensor) -> Acceptance:
        arguments[argument] = arguments[argument][:, above].contiguous()
        return run_backend("reference")(**arguments)

    with pytest.raises(AssertionError, match="biased at node [1-5]"):
        prove_exact(rows_of_the_parent, game)
