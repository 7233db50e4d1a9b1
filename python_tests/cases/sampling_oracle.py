"""Sampling and recursive rejection in float64 from the definitions, with how close each coin came.

The contract lets a result differ where a coin lies within 1e-6 of a step of the distribution it
decides on: `margin` is that distance, the smallest along the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from tree_cases import Tree, children

ALLOWED = 1e-6


def softmax(logits: Tensor, temperature: float) -> Tensor:
    """Ids 87 temperatures or more below the highest have no mass, by contract."""
    exponent = (logits.double() - logits.double().amax(-1, keepdim=True)) / temperature
    weights = exponent.exp().masked_fill(exponent < -87, 0)
    return weights / weights.sum(-1, keepdim=True)


def draw(weights: Tensor, coin: float) -> tuple[int, float]:
    """The id, and how far the coin is from a step."""
    prob = weights.double() / weights.double().sum()
    cdf = prob.cumsum(0)
    above = (cdf > coin).nonzero()
    token = int(above[0]) if len(above) else int(prob.nonzero().max())
    steps = torch.cat([cdf.new_zeros(1), cdf])
    return token, float((steps - coin).abs().min()) if 0 < coin < 1 else math.inf


def walk(
    tree: Tree,
    tokens: Sequence[int],
    target: Tensor,
    draft: Tensor,
    coins: Sequence[float],
    bonus_coin: float,
    max_path: int,
) -> tuple[list[int], list[int], float]:
    """Path, emitted tokens and margin of one request; `target` and `draft` `[T, V]` weights."""
    path, emitted, margin = [0], [], math.inf
    while True:
        node = path[-1]
        goal = original = target[node].double() / target[node].double().sum()
        given = draft[node].double() / draft[node].double().sum()
        refused: set[int] = set()
        accepted = None
        for child in children(tree, node) if len(path) < max_path else []:
            token = tokens[child]
            if token in refused:
                continue
            threshold = float(goal[token] / given[token]) if given[token] > 0 else math.inf
            margin = min(margin, abs(coins[child] - threshold) / max(1.0, threshold))
            if coins[child] * given[token] < goal[token]:
                accepted = child
                break
            refused.add(token)
            rest = (goal - given).clamp(min=0)
            # A remainder this small is the rounding of what is left of float32 rows.
            margin = min(margin, float(rest.sum()))
            goal = rest / rest.sum() if rest.sum() > 0 else original
            given = given.clone()
            given[token] = 0
            if given.sum() > 0:  # else the draft could draw nothing more, and no ratio is left
                given = given / given.sum()
        if accepted is None:
            token, distance = draw(goal, bonus_coin)
            return path, [*emitted, token], min(margin, distance)
        path.append(accepted)
        emitted.append(tokens[accepted])
