"""sgl-kernel's encoding in plain Python: grown histories, and what each of its calls must write."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import pytest
import torch
from emulation import load_emulated
from torch import Tensor
from tree_cases import Tree, children, climb

from sparrow_kernels import backend
from sparrow_kernels.integrations.sglang import (
    tree_speculative_sampling_target_only,
    verify_tree_greedy,
)
from sparrow_kernels.ops.accept.ops import ACCEPT_TREE, SAMPLE_TOKENS

Links = tuple[list[int], list[int]]  # next_token and next_sibling of each node


@dataclass(frozen=True)
class Grown:
    """One request: what was grown, `topk` children a node, and what was selected of it."""

    parent_list: list[int]
    selected: list[int]

    def tree(self, topk: int) -> Tree:
        """The selected nodes as a list of parents, by the encoding's definition."""
        parents = [-1]
        for flat in self.selected:
            group = flat // topk
            above = 0 if group == 0 else 1 + self.selected.index(self.parent_list[group])
            parents.append(above)
        return parents


def grow(topk: int, depth: int, nodes: int, seed: int) -> Grown:
    """A history of `depth` levels, each grown from `topk` nodes of the last, and a choice of it."""
    draw = random.Random(seed)
    above: dict[int, int | None] = dict.fromkeys(range(topk))  # flat index -> parent's flat index
    level, parent_list = list(range(topk)), [-1]
    for _ in range(1, depth):
        beam = draw.sample(level, topk)
        parent_list += beam
        first = len(above)
        level = [first + n for n in range(topk * topk)]
        above |= {flat: beam[(flat - first) // topk] for flat in level}
    selected: list[int] = []
    while len(selected) < nodes - 1:
        open_ = [
            f for f, up in above.items() if f not in selected and (up is None or up in selected)
        ]
        selected.append(draw.choice(open_))
    return Grown(parent_list, sorted(selected))


def links(tree: Tree) -> Links:
    first = [min(children(tree, node), default=-1) for node in range(len(tree))]
    later = [[s for s in children(tree, up) if s > node] for node, up in enumerate(tree)]
    return first, [min(siblings, default=-1) for siblings in later]


def renumbered(pair: Links, numbers: Sequence[int]) -> Links:
    """The same links where node n is called `numbers[n]`."""
    moved = ([-1] * len(numbers), [-1] * len(numbers))
    for old, new in zip(pair, moved, strict=True):
        for node, link in enumerate(old):
            new[numbers[node]] = -1 if link < 0 else numbers[link]
    return moved


def greedy(
    pair: Links, tokens: Sequence[int], target: Sequence[int], most_nodes: int
) -> tuple[list[int], list[int]]:
    """Path and emitted tokens of sgl-kernel's greedy walk: it goes by the links alone."""
    next_token, next_sibling = pair
    path, emitted = [0], [target[0]]
    while len(path) < most_nodes:
        node = next_token[path[-1]]
        while node != -1 and tokens[node] != emitted[-1]:
            node = next_sibling[node]
        if node == -1:
            break
        path.append(node)
        emitted.append(target[node])
    return path, emitted


def sees(tree: Tree) -> list[list[bool]]:
    return [[j in climb(tree, i) for j in range(len(tree))] for i in range(len(tree))]


def decide(
    tree: Tree,
    tokens: Sequence[int],
    target: Sequence[Sequence[Fraction]],
    coins: Sequence[Fraction],
    final: Fraction,
    most_nodes: int,
    single: Fraction = Fraction(1),
    acc: Fraction = Fraction(1),
    counts_repeats: bool = False,
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Path, emitted tokens and refused (row, token) of a sampled verification.

    `counts_repeats` adds the mass of a token again for each sibling that holds it: sgl-kernel.
    """
    path, emitted, refused = [0], [], []
    while True:
        row, tried, share = target[path[-1]], set(), Fraction(0)
        accepted = None
        for child in children(tree, path[-1]) if len(path) < most_nodes else []:
            x = tokens[child]
            if x in tried and not counts_repeats:
                continue
            tried.add(x)
            share += row[x]
            by_coin = coins[path[-1]] * acc <= share and row[x] > 0
            if by_coin or row[x] >= single:
                accepted = child
                break
            refused.append((path[-1], x))
        if accepted is None:
            rest = [Fraction(0) if x in tried else mass for x, mass in enumerate(row)]
            rest = rest if any(rest) else list(row)
            below = [sum(rest[: x + 1], Fraction(0)) for x in range(len(rest))]
            drawn = [x for x, mass in enumerate(below) if mass > final * below[-1]]
            emitted.append(drawn[0])
            return path, emitted, refused
        path.append(accepted)
        emitted.append(tokens[accepted])


@dataclass
class Verification:
    """The tensors of one verification as a caller of sgl-kernel prepares them."""

    predicts: Tensor
    accept_index: Tensor
    accept_token_num: Tensor
    retrieve: tuple[Tensor, Tensor, Tensor]


UNTOUCHED = -7
EIGHTHS = 8
Rows = tuple[tuple[int, ...], ...]


def verification(trees: Sequence[Tree], most_nodes: int, device: str) -> Verification:
    return linked([links(tree) for tree in trees], most_nodes, device)


def linked(pairs: Sequence[Links], most_nodes: int, device: str) -> Verification:
    batch, nodes = len(pairs), len(pairs[0][0])
    index = torch.arange(batch * nodes, device=device).view(batch, nodes)
    return Verification(
        # One element more, as sglang allocates it.
        torch.full((batch * nodes + 1,), UNTOUCHED, dtype=torch.int32, device=device),
        torch.full((batch, most_nodes), UNTOUCHED, dtype=torch.int32, device=device),
        torch.full((batch,), UNTOUCHED, dtype=torch.int32, device=device),
        (
            index,
            torch.tensor([pair[0] for pair in pairs], device=device).view(batch, nodes),
            torch.tensor([pair[1] for pair in pairs], device=device).view(batch, nodes),
        ),
    )


def expect(
    call: Verification, paths: Sequence[Sequence[int]], emitted: Sequence[list[int]]
) -> None:
    """Every output element is what the walks say, or untouched."""
    predicts = [UNTOUCHED] * len(call.predicts)
    accepted = []
    for index, path, tokens in zip(call.retrieve[0].tolist(), paths, emitted, strict=True):
        for node, token in zip(path, tokens, strict=True):
            predicts[index[node]] = token
        rest = call.accept_index.shape[1] - len(path)
        accepted.append([index[node] for node in path] + [UNTOUCHED] * rest)
    assert call.predicts.tolist() == predicts
    assert call.accept_index.tolist() == accepted
    assert call.accept_token_num.tolist() == [len(path) - 1 for path in paths]


@contextmanager
def ops_of(runner: str) -> Iterator[str]:
    """The public ops inside are those of one of `residual_runners.RUNNERS`, for tensors on the
    device that is returned."""
    if runner != "emulated":
        with backend("reference" if runner == "reference" else "auto"):
            yield "cuda" if runner == "cuda" else "cpu"
        return
    load_emulated()
    with pytest.MonkeyPatch.context() as patch:
        for op in (ACCEPT_TREE, SAMPLE_TOKENS):
            emulated = getattr(torch.ops.sparrow_emulated, op.name)
            patch.setattr(op.implementations["native"], "function", emulated)
        yield "cpu"


def verify(
    pairs: list[Links],
    tokens: list[list[int]],
    target: list[list[int]],
    most_nodes: int,
    device: str,
) -> Verification:
    """One call of `verify_tree_greedy`, a request for each pair of links."""
    call = linked(pairs, most_nodes, device)
    verify_tree_greedy(
        call.predicts,
        call.accept_index,
        call.accept_token_num,
        torch.tensor(tokens, device=device),
        *call.retrieve,
        torch.tensor(target, device=device),
    )
    return call


@cache
def middles(count: int) -> tuple[Fraction, ...]:
    """The middles of `count` equal intervals of [0, 1]."""
    return tuple(Fraction(2 * n + 1, 2 * count) for n in range(count))


class Sampled:
    """The same tree under many coins, target rows in eighths: one call and what it wrote.

    The caller's number of node n is `numbers[n]`, by default n.
    """

    def __init__(
        self,
        tree: Tree,
        tokens: tuple[int, ...],
        target: Rows,
        coins: list[tuple[Fraction, ...]],
        final: list[Fraction],
        most_nodes: int,
        device: str = "cpu",
        thresholds: tuple[float, float] = (1.0, 1.0),
        numbers: Sequence[int] | None = None,
    ) -> None:
        batch = len(final)
        if numbers is None:
            numbers = range(len(tree))
        else:
            node = sorted(range(len(tree)), key=numbers.__getitem__)  # the way back
            tokens, target = (tuple(row[n] for n in node) for row in (tokens, target))
            coins = [tuple(row[n] for n in node) for row in coins]
        self.call = linked([renumbered(links(tree), numbers)] * batch, most_nodes, device)
        rows = torch.tensor(target, device=device) / EIGHTHS
        self.target = rows.expand(batch, *rows.shape)
        self.draft = torch.zeros_like(self.target, memory_format=torch.contiguous_format)
        tree_speculative_sampling_target_only(
            self.call.predicts,
            self.call.accept_index,
            self.call.accept_token_num,
            torch.tensor(tokens, device=device).repeat(batch, 1),
            *self.call.retrieve,
            torch.tensor([[float(c) for c in row] for row in coins], device=device),
            torch.tensor([float(c) for c in final], device=device),
            self.target,
            self.draft,
            *thresholds,
        )

    def emitted(self) -> list[tuple[int, ...]]:
        count = self.call.accept_token_num.tolist()
        predicts = self.call.predicts.tolist()
        return [
            tuple(predicts[place] for place in row[: length + 1])
            for row, length in zip(self.call.accept_index.tolist(), count, strict=True)
        ]


def runs_without_a_sync(call: Callable[[], None]) -> None:
    """`call` runs on a GPU without waiting for it; once before, as kernels load at first use."""
    call()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
