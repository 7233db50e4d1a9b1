"""Recursive rejection sampling in exact fractions, from the contract: the tests' oracle."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

from tree_cases import Tree, children

Row = list[Fraction]


def normalised(weights: Sequence[float | Fraction]) -> Row:
    exact = [Fraction(weight) for weight in weights]
    whole = sum(exact)
    return [weight / whole for weight in exact] if whole else exact


class Rule:
    """One node's two distributions as its children are refused one after another."""

    def __init__(self, target: Sequence[float | Fraction], draft: Sequence[float | Fraction]):
        self.original = self.target = normalised(target)
        self.draft = normalised(draft)
        self.refused: list[int] = []

    def threshold(self, token: int) -> Fraction:
        """A child with `token` is accepted by coins below this."""
        if token in self.refused:
            return Fraction(0)
        if self.draft[token] == 0:
            return Fraction(int(self.target[token] > 0))
        return min(Fraction(1), self.target[token] / self.draft[token])

    def refuse(self, token: int) -> None:
        if token in self.refused:
            return
        self.refused.append(token)
        pairs = zip(self.target, self.draft, strict=True)
        remains = [max(Fraction(0), target - draft) for target, draft in pairs]
        self.target = normalised(remains) if any(remains) else self.original
        self.draft = normalised(
            [Fraction(0) if x == token else draft for x, draft in enumerate(self.draft)]
        )

    def cdf(self) -> list[Fraction]:
        return list(accumulate(self.target))


def run(
    tree: Tree,
    tokens: Sequence[int],
    target: Sequence[Sequence[float]],
    draft: Sequence[Sequence[float]],
    coins: Sequence[float],
    bonus_coin: float,
    max_path: int,
) -> tuple[list[int], list[int], Fraction]:
    """Path, emitted tokens, and how close a coin that was used came to its threshold."""
    if not tree:
        return [], [], Fraction(1)
    path, emitted, margin = [0], [], Fraction(1)
    while True:
        rule = Rule(target[path[-1]], draft[path[-1]])
        accepted = None
        for child in children(tree, path[-1]) if len(path) < max_path else []:
            threshold, coin = rule.threshold(tokens[child]), Fraction(coins[child])
            if tokens[child] not in rule.refused:
                margin = min(margin, abs(threshold - coin))
            if coin < threshold:
                accepted = child
                break
            rule.refuse(tokens[child])
        if accepted is None:
            cdf, coin = rule.cdf(), Fraction(bonus_coin)
            margin = min([margin, *(abs(step - coin) for step in cdf)])
            with_mass = [x for x, prob in enumerate(rule.target) if prob]
            emitted.append(next((x for x, step in enumerate(cdf) if step > coin), with_mass[-1]))
            return path, emitted, margin
        path.append(accepted)
        emitted.append(tokens[accepted])
