"""Links that are no tree's: they may lie where no walk comes; else they are refused, or its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from residual_runners import RUNNERS
from sglang_cases import UNTOUCHED, Links, Verification, expect, linked, ops_of, verify

from sparrow_kernels import checks
from sparrow_kernels.integrations.sglang import tree_speculative_sampling_target_only
from sparrow_kernels.testing import GuardRows


@pytest.fixture(params=RUNNERS)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with ops_of(request.param) as device:
        yield device


UNREACHED: dict[str, Links] = {
    "links out of the tree": ([1, -1, 9], [-1, -1, -5]),
    "a cycle": ([1, -1, 2], [-1, -1, 2]),
    "links to what is reached": ([1, -1, 0], [-1, -1, 1]),
    "a sibling of the root": ([1, -1, -1], [2, -1, 0]),
}


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("name", UNREACHED)
def test_what_no_walk_reaches_may_hold_anything(name: str, checked: bool, device: str) -> None:
    pair = UNREACHED[name]
    with checks(checked):
        call = verify([pair], [[0, 5, 5]], [[5, 7, 5]], 3, device)
        expect(call, [[0, 1]], [[5, 7]])
        expect(sampled([pair], device), [[0, 1]], [[1, 7]])


def sampled(pairs: list[Links], device: str) -> Verification:
    """Node n holds token n; what follows a node for certain is its first child, or else 7."""
    nodes = len(pairs[0][0])
    guards = GuardRows()
    call = linked(pairs, 5, device)
    call.accept_index = guards.empty(len(pairs), 5, dtype=torch.int32, device=device)
    call.accept_index.fill_(UNTOUCHED)
    follows = torch.tensor([follow(pair) for pair in pairs], device=device)
    target = torch.nn.functional.one_hot(follows, 8).float()
    draft = guards.empty(*target.shape, device=device).zero_()
    tree_speculative_sampling_target_only(
        call.predicts,
        call.accept_index,
        call.accept_token_num,
        torch.arange(nodes, device=device).repeat(len(pairs), 1),
        *call.retrieve,
        torch.full((len(pairs), nodes), 0.5, device=device),
        torch.full((len(pairs),), 0.5, device=device),
        target,
        draft,
    )
    guards.check()
    return call


def follow(pair: Links) -> list[int]:
    return [link if 0 < link < len(pair[0]) else 7 for link in pair[0]]


# Links, what is said of them, and where both calls go unchecked if every first child is accepted.
WRONG: dict[str, tuple[Links, str, list[int], list[int]]] = {
    "out of the tree": (
        ([7, -1, -1], [-1, 2, -1]),
        "retrieve_next_token must be -1 or a node below N = 3, got retrieve_next_token[1][0] = 7",
        [0],
        [0],
    ),
    "far out of the tree": (
        ([1, -1, -1], [-1, 2**33 + 2, -1]),
        "retrieve_next_sibling must be -1 or a node below N = 3, "
        "got retrieve_next_sibling[1][1] = 8589934594",
        [0, 1],
        [0, 1],
    ),
    "below -1": (
        ([1, -5, -1], [-1, -1, -1]),
        "retrieve_next_token must be -1 or a node below N = 3, got retrieve_next_token[1][1] = -5",
        [0, 1],
        [0, 1],
    ),
    "a ring of siblings": (
        ([1, -1, -1, -1], [-1, 3, 1, 2]),
        "retrieve_next_sibling must be without a cycle, got retrieve_next_sibling[1][2] = 1",
        [0, 1],
        [0],
    ),
    "a sibling of itself": (
        ([1, -1], [-1, 1]),
        "retrieve_next_sibling must be without a cycle, got retrieve_next_sibling[1][1] = 1",
        [0, 1],
        [0],
    ),
    "a ring of children": (
        ([2, -1, 3, 2], [-1, -1, -1, -1]),
        "retrieve_next_token must be without a cycle, got retrieve_next_token[1][3] = 2",
        [0, 2, 3, 2, 3],
        [0],
    ),
    "back to the root": (
        ([1, 0, -1], [-1, 2, -1]),
        "retrieve_next_token must be without a cycle, got retrieve_next_token[1][1] = 0",
        [0, 1, 0, 1, 0],
        [0, 1],
    ),
    "a child's sibling is its parent": (
        ([1, 2, -1], [-1, -1, 1]),
        "retrieve_next_sibling must be without a cycle, got retrieve_next_sibling[1][2] = 1",
        [0, 1, 2],
        [0],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_links_that_end_nowhere(name: str, device: str) -> None:
    """Refused by the name of the link where values are checked; else the walk ends there."""
    pair, message, greedily, sampling = WRONG[name]
    nodes = len(pair[0])
    pairs: list[Links] = [([-1] * nodes, [-1] * nodes), pair]
    ones = [[1] * nodes] * 2
    with checks(True):
        with pytest.raises(ValueError) as refusal:
            verify(pairs, ones, ones, 5, device)
        assert str(refusal.value) == f"verify_tree_greedy: {message}"
        with pytest.raises(ValueError) as refusal:
            sampled(pairs, device)
        assert str(refusal.value) == f"tree_speculative_sampling_target_only: {message}"
    with checks(False):
        call = verify(pairs, ones, ones, 5, device)
        expect(call, [[0], greedily], [[1], [1] * len(greedily)])
        # Every sibling is tried and refused.
        call = verify(pairs, ones, [[2] * nodes] * 2, 5, device)
        expect(call, [[0], [0]], [[2], [2]])
        call = sampled(pairs, device)
        expect(call, [[0], sampling], [[7], [follow(pair)[node] for node in sampling]])


def test_sampling_takes_one_link_to_a_node(device: str) -> None:
    """Two would give it two parents; unchecked, neither is followed."""
    pair: Links = ([1, 3, 3, -1], [-1, 2, -1, -1])
    must_be = r"retrieve_next_token must be the only link to its node, got .*\[0\]\[2\] = 3$"
    with checks(True), pytest.raises(ValueError, match=must_be):
        sampled([pair], device)
    with checks(False):
        expect(sampled([pair], device), [[0, 1]], [[1, 3]])
