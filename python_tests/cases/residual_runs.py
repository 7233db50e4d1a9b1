"""Every way a step of recursive rejection sampling can go, with its exact probability.

A run is one draw of the tokens of all nodes on the way and one interval for every coin that is
used: within the intervals the decisions do not change. The op itself is then driven with coins just
inside both ends of the intervals; if both ends agree, so does everything between, since a decision
is monotone in its coin. What the op answers, weighted by the exact probabilities, is its law.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise

import torch
from residual_rule import Row, Rule, normalised
from torch import Tensor
from tree_cases import children

from sparrow_kernels import Acceptance, build_tree

Interval = tuple[Fraction, Fraction]
INSIDE = 1e-4  # of an interval, from its ends; far more than float32 and float64 round
Op = Callable[..., Acceptance]


@dataclass(frozen=True)
class Run:
    probability: Fraction
    tokens: dict[int, int]
    coins: dict[int, Interval]
    bonus: Interval


@dataclass(frozen=True)
class Game:
    """A tree, one row of each distribution a node, and how siblings are drawn."""

    tree: tuple[int, ...]
    target: tuple[tuple[int, ...], ...]
    draft: tuple[tuple[int, ...], ...]
    replacement: bool

    def runs(self) -> list[Run]:
        return _runs(self)

    def _from(self, node: int, probability: Fraction, tokens: dict, coins: dict) -> Iterator[Run]:
        siblings = children(list(self.tree), node)
        draft = normalised(self.draft[node])
        for drawn, share in draws(draft, len(siblings), self.replacement):
            rule, left, used = Rule(self.target[node], self.draft[node]), probability * share, coins
            known = tokens | dict(zip(siblings, drawn, strict=True))
            for child, token in zip(siblings, drawn, strict=True):
                threshold = rule.threshold(token)
                if threshold > 0:
                    taken = used | {child: (Fraction(0), threshold)}
                    yield from self._from(child, left * threshold, known, taken)
                left, used = left * (1 - threshold), used | {child: (threshold, Fraction(1))}
                if left == 0:
                    break
                rule.refuse(token)
            else:
                for low, high in pairwise([Fraction(0), *rule.cdf()]):
                    if high > low:
                        yield Run(left * (high - low), known, used, (low, high))


@cache
def _runs(game: Game) -> list[Run]:
    return list(game._from(0, Fraction(1), {}, {}))


def draws(draft: Row, count: int, replacement: bool) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """All ways to draw `count` tokens in order, with their probabilities."""
    if count == 0:
        yield (), Fraction(1)
        return
    for token, share in enumerate(draft):
        if share == 0:
            continue
        rest = [Fraction(0) if x == token else prob for x, prob in enumerate(draft)]
        after = draft if replacement else normalised(rest)
        for others, probability in draws(after, count - 1, replacement):
            yield (token, *others), share * probability


def drive(op: Op, game: Game, runs: Sequence[Run], end: float) -> Acceptance:
    """Run the op on all runs at once, every coin at `end` (0 low, 1 high) of its interval."""
    size, noise = len(game.tree), random.Random(0)
    vocabulary = len(game.target[0])

    def inside(interval: Interval) -> float:
        low, high = map(float, interval)
        return low + (high - low) * (INSIDE + end * (1 - 2 * INSIDE))

    # What a run does not fix may be anything.
    tokens = [[r.tokens.get(n, noise.randrange(vocabulary)) for n in range(size)] for r in runs]
    coins = [
        [inside(r.coins[n]) if n in r.coins else noise.random() for n in range(size)] for r in runs
    ]

    def rows(weights: Sequence[Sequence[int]]) -> Tensor:
        exact = [[float(prob) for prob in normalised(row)] for row in weights]
        return torch.tensor(exact).expand(len(runs), -1, -1).contiguous()

    return op(
        tokens=torch.tensor(tokens),
        layout=build_tree(torch.tensor([game.tree] * len(runs), dtype=torch.int32)),
        target_probs=rows(game.target),
        draft_probs=rows(game.draft),
        uniform=torch.tensor(coins),
        bonus_uniform=torch.tensor([inside(r.bonus) for r in runs]),
        max_path=size,
    )


def prove_exact(op: Op, game: Game) -> None:
    """Whatever node the op reaches, the next token it emits has that node's target distribution.

    Exact, in fractions: not one part in any power of ten is allowed.
    """
    runs = game.runs()
    assert sum(run.probability for run in runs) == 1
    low, high = drive(op, game, runs, 0.0), drive(op, game, runs, 1.0)
    emitted = [[Fraction(0)] * len(row) for row in game.target]
    for run, path, tokens in zip(runs, low.path.tolist(), low.tokens.tolist(), strict=True):
        for node, token in zip(path, tokens, strict=True):
            if node >= 0:
                emitted[node][token] += run.probability
    assert sum(emitted[0]) == 1
    for node, law in enumerate(emitted):
        reached = sum(law)
        expected = [prob * reached for prob in normalised(game.target[node])]
        assert law == expected, f"biased at node {node}: {law} is not {expected}"
    for one, other in zip(low, high, strict=True):
        assert torch.equal(one, other), "a decision changes within an interval"
