"""The native accept_tree_residual emits the target's distribution: by exact enumeration.

Every way the children can be drawn from the draft is enumerated with its probability, and every
coin goes over the middles of a grid. The distributions are chosen so that every threshold a coin
can meet, at any stage of the rejections, lies on the grid: a cell then decides as one, and its
middle stands for all of it. What comes out, weighted, must equal the target as fractions.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from emulation import Library
from torch import Tensor
from tree_oracle import int32

BUILD_TREE = torch.ops.sparrow_native.build_tree
Row = tuple[Fraction, ...]
GRID = 6


def row(*sixths: float) -> Row:
    return tuple(Fraction(share) / 6 for share in sixths)


PAIRS = {  # target, draft
    "no mass where the draft has most": (row(0, 3, 3), row(3, 1, 2)),
    "never drafted enough": (row(2, 0, 4), row(1, 2, 3)),
    "sharper than the draft": (row(0, 4, 2), row(3, 1.5, 1.5)),
    "equal": (row(1, 2, 3), row(1, 2, 3)),
    "apart": (row(0, 0, 6), row(3, 3, 0)),
}


def draws(draft: Row, count: int, replace: bool) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """Every sequence of `count` children of one node, with its probability."""
    for tokens in itertools.product(range(len(draft)), repeat=count):
        left, probability = list(draft), Fraction(1)
        for token in tokens:
            probability *= left[token] / sum(left) if sum(left) > 0 else 0
            if not replace:
                left[token] = Fraction(0)
        if probability > 0:
            yield tokens, probability


def coin_grid(coins: int) -> Tensor:
    """`[GRID ** coins, coins]`: the middle of every cell."""
    middles = [(2 * cell + 1) / (2 * GRID) for cell in range(GRID)]
    return torch.tensor(list(itertools.product(middles, repeat=coins)))


def emit(
    library: Library,
    parent: list[int],
    tokens: list[int],
    rows: list[tuple[Row, Row]],
    uniform: Tensor,
    bonus_uniform: Tensor,
    max_path: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """One tree, many rows of coins `[B, T]` and `[B]`; `rows` are target and draft by node."""
    batch, nodes = uniform.shape
    layout = BUILD_TREE(int32([parent]), None)[:5]
    target, draft = (
        torch.tensor([[float(share) for share in pair[side]] for pair in rows]) for side in (0, 1)
    )
    return library.ops.accept_tree_residual(
        torch.tensor([tokens]).expand(batch, nodes),
        *(field.expand(batch, *field.shape[1:]) for field in layout),
        target.expand(batch, *target.shape),
        draft.expand(batch, *draft.shape),
        uniform.contiguous(),
        bonus_uniform.contiguous(),
        max_path,
    )


@pytest.mark.parametrize("replace", [True, False], ids=["with", "without"])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_one_level(library: Library, pair: tuple[Row, Row], count: int, replace: bool) -> None:
    target, draft = pair
    if library.name == "emulated" and count > 1:
        pytest.skip("a request takes the emulator milliseconds; test_accept_residual_exact has it")
    if not replace and count > sum(share > 0 for share in draft):
        count = sum(share > 0 for share in draft)  # no more can be drawn
    coins = coin_grid(count + 1)
    uniform = torch.cat([torch.full((len(coins), 1), torch.nan), coins[:, :count]], 1)
    outcome = [Fraction(0)] * 3
    for children, probability in draws(draft, count, replace):
        parent, tokens = [-1] + [0] * count, [0, *children]
        first = emit(library, parent, tokens, [pair] * (count + 1), uniform, coins[:, count], 2)[2][
            :, 0
        ]
        for token, times in enumerate(first.bincount(minlength=3).tolist()):
            outcome[token] += probability * Fraction(times, len(coins))
    assert tuple(outcome) == target


@pytest.mark.parametrize("replace", [True, False], ids=["with", "without"])
def test_two_levels(library: Library, replace: bool) -> None:
    """Two children, the first with two and the second with one of its own: a joint distribution.

    What follows a token depends on it. Where only one token is emitted, the next step is taken to
    draw the second from the target, as it would.
    """
    if library.name == "emulated":
        pytest.skip("a request takes the emulator milliseconds; test_accept_residual_exact has it")
    first_pair = PAIRS["no mass where the draft has most"]
    after = [PAIRS["sharper than the draft"], PAIRS["never drafted enough"], PAIRS["apart"]]
    parent = [-1, 0, 0, 1, 1, 2]
    # Node 5 is tried only if node 1 was refused, nodes 3 and 4 only if not: one coin does for both.
    coins = coin_grid(5)
    place = {1: 0, 2: 1, 3: 2, 4: 3, 5: 2}
    uniform = torch.stack(
        [torch.full((len(coins),), torch.nan)] + [coins[:, place[node]] for node in range(1, 6)], 1
    )
    joint: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
    for (left, right), outer in draws(first_pair[1], 2, replace):
        for under_left, inner in draws(after[left][1], 2, replace):
            for under_right, innermost in draws(after[right][1], 1, replace):
                probability = outer * inner * innermost / len(coins)
                tokens = [0, left, right, *under_left, *under_right]
                rows = [first_pair, after[left], after[right], *[PAIRS["equal"]] * 3]
                _, length, emitted = emit(library, parent, tokens, rows, uniform, coins[:, 4], 2)
                pairs = torch.where(length == 0, emitted[:, 0], 3 + 3 * emitted[:, 0])
                pairs += torch.where(length == 0, 0, emitted[:, 1])
                for code, times in enumerate(pairs.bincount(minlength=12).tolist()):
                    if code >= 3:
                        joint[divmod(code - 3, 3)] += probability * times
                        continue
                    for second, share in enumerate(after[code][0]):
                        joint[code, second] += probability * times * share
    wanted = {
        (first, second): first_pair[0][first] * after[first][0][second]
        for first in range(3)
        for second in range(3)
    }
    assert {key: joint[key] for key in wanted} == wanted


def step(
    library: Library,
    tokens: list[int],
    target: list[float],
    draft: list[float],
    uniform: list[float],
    bonus_uniform: float = 0.5,
    max_path: int = 2,
) -> tuple[list[int], int, list[int]]:
    """One root with children, the same distributions everywhere."""
    nodes = len(tokens)
    layout = BUILD_TREE(int32([[-1] + [0] * (nodes - 1)]), None)[:5]
    path, length, emitted = library.ops.accept_tree_residual(
        torch.tensor([tokens]),
        *layout,
        torch.tensor(target).expand(1, nodes, len(target)),
        torch.tensor(draft).expand(1, nodes, len(draft)),
        torch.tensor([uniform]),
        torch.tensor([bonus_uniform]),
        max_path,
    )
    return path[0].tolist(), length.item(), emitted[0].tolist()


def test_equal_distributions_accept_all_but_a_coin_of_one(library: Library) -> None:
    assert step(library, [0, 1], [0.3, 0.7], [0.3, 0.7], [0, 0.9999])[1] == 1
    # With a coin of 1 nothing of the target remains: it starts again, and the draft is empty.
    assert step(library, [0, 1], [0.3, 0.7], [0.3, 0.7], [0, 1.0], 0.99)[2] == [1, -1]


def test_a_repeated_refusal_changes_nothing(library: Library) -> None:
    once = step(library, [0, 0, 2], [0.0, 0.4, 0.6], [0.5, 0.25, 0.25], [0, 0.5, 0.9], 0.1)
    twice = step(library, [0, 0, 0, 2], [0.0, 0.4, 0.6], [0.5, 0.25, 0.25], [0, 0.5, 0.0, 0.9], 0.1)
    assert once == ([0, 2], 1, [2, 1])
    assert twice == ([0, 3], 1, [2, 1])


def test_max_path_stops_the_walk_with_an_untouched_target(library: Library) -> None:
    assert step(library, [0, 1], [1.0, 0.0], [0.0, 1.0], [0, 0.0], max_path=1) == ([0], 0, [0])


@pytest.mark.parametrize("vocab", [1, 7, 8, 9, 4097])
def test_odd_vocabularies_against_float64(library: Library, vocab: int) -> None:
    """The residual of a first refusal, drawn at many coins."""
    torch.manual_seed(vocab)
    target, draft = (torch.rand(vocab).softmax(0) for _ in range(2))
    draft[0] = draft[0] + 1.0  # token 0 is refused
    draft = draft / draft.sum()
    coins = torch.rand(50)
    left = (target.double() / target.double().sum() - draft.double() / draft.double().sum()).clamp(
        0
    )
    cdf = (left if left.sum() > 0 else target.double()).cumsum(0)
    for coin in coins.tolist():
        path, _, emitted = step(library, [0, 0], target.tolist(), draft.tolist(), [0, 1.0], coin)
        assert path == [0, -1]
        distance = (cdf - coin * cdf[-1]).abs().min() / cdf[-1]
        if distance > 1e-6:
            assert emitted[0] == (cdf > coin * cdf[-1]).nonzero()[0].item()


@pytest.mark.parametrize("bad", [torch.nan, -1.0, 0.0])
def test_a_target_without_valid_mass_yields_no_token(library: Library, bad: float) -> None:
    assert step(library, [0, 1, 0], [bad, 0.0], [0.5, 0.5], [0, 0.5, 0.5]) == ([0, -1], 0, [-1, -1])


@pytest.mark.parametrize("token", [-1, 2, 2**62, -(2**63)])
def test_a_token_outside_the_vocabulary_is_never_accepted(library: Library, token: int) -> None:
    assert step(library, [0, token], [0.5, 0.5], [0.5, 0.5], [0, 0.0])[1] == 0


def test_an_idle_request(library: Library) -> None:
    layout = BUILD_TREE(int32([[-1, 0]]), int32([0]))[:5]
    probs, coins = torch.full((1, 2, 3), torch.nan), torch.full((1, 2), torch.nan)
    got = library.ops.accept_tree_residual(
        torch.zeros(1, 2, dtype=torch.long), *layout, probs, probs, coins, coins[0, :1], 3
    )
    assert [field.tolist() for field in got] == [[[-1] * 3], [-1], [[-1] * 3]]


def test_refusals_name_the_argument(library: Library) -> None:
    layout = BUILD_TREE(int32([[-1, 0]]), None)[:5]
    tokens, probs, coins = (
        torch.zeros(1, 2, dtype=torch.long),
        torch.ones(1, 2, 3),
        torch.ones(1, 2),
    )
    cases = [
        ((probs.double(), probs, coins, coins[:, 0], 2), "target_probs must be Float, got Double"),
        ((probs, probs[..., :2], coins, coins[:, 0], 2), r"draft_probs must be \[1, 2, 3\]"),
        ((probs, probs, coins[:, :1], coins[:, 0], 2), r"uniform must be \[1, 2\]"),
        ((probs, probs, coins, coins, 2), r"bonus_uniform must be \[1\]"),
        ((probs, probs, coins, coins[:, 0], 0), "max_path must be at least 1"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=f"accept_tree_residual: {message}"):
            library.ops.accept_tree_residual(tokens, *layout, *arguments)
