"""The residual walk whose nodes are tried apart, a cluster each: what comes out is one walk's.

Four multiprocessors are emulated, so that a call has four clusters of one block in all, or two of
two blocks; the CPU's walk goes from node to node.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from emulation import LIBRARIES, Library
from torch import Tensor
from tree_cases import random_tree
from tree_oracle import int32

pytestmark = pytest.mark.parametrize("library", LIBRARIES[1:], indirect=True)

NATIVE = torch.ops.sparrow_native
DEPTH, FIRST_CHILD, NEXT_SIBLING = 1, 3, 4
FOUR_INNER = [-1, 0, 0, 1, 1, 3, 3, 5, 5]
CHAIN = [-1, 0, 1, 2, 3]


class Call:
    """Drafts near their targets, on the CPU, so that paths are walked and refusals nest."""

    def __init__(self, parents: Sequence[Sequence[int]], vocab: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        batch, nodes = len(parents), len(parents[0])
        shape = (batch, nodes, vocab)
        self.layout = list(NATIVE.build_tree(int32(parents), None)[:5])
        self.target = (2 * torch.randn(shape, generator=generator)).softmax(-1)
        noise = torch.randn(shape, generator=generator)
        self.draft = (self.target.log() + noise).softmax(-1)
        self.tokens = torch.zeros(batch, nodes, dtype=torch.long)
        for b, tree in enumerate(parents):
            for node in range(1, nodes):
                row = self.draft[b, tree[node]]
                self.tokens[b, node] = torch.multinomial(row, 1, generator=generator)
        self.coins = torch.rand(batch, nodes, generator=generator)
        self.bonus = torch.rand(batch, generator=generator)

    def of(self, ops: object, device: str, max_path: int) -> list[Tensor]:
        arguments = (self.tokens, *self.layout, self.target, self.draft, self.coins, self.bonus)
        there = (each.to(device) for each in arguments)
        return [each.cpu() for each in ops.accept_tree_residual(*there, max_path)]  # type: ignore[attr-defined]

    def agrees(self, library: Library, max_path: int) -> list[Tensor]:
        got, wanted = (
            self.of(library.ops, library.device, max_path),
            self.of(NATIVE, "cpu", max_path),
        )
        assert [each.tolist() for each in got] == [each.tolist() for each in wanted]
        return wanted


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize(("vocab", "repeats"), [(7, 8), (600, 2), (5000, 1)])
def test_any_tree(library: Library, vocab: int, repeats: int, batch: int) -> None:
    """With fewer inner nodes than clusters, as many, and more."""
    longest = 0
    for seed in range(repeats):
        size = random.Random(seed).randint(2, 12)
        parents = [random_tree(size, 10 * seed + b) for b in range(batch)]
        for max_path in (1, 2, 3, 9):
            lengths = Call(parents, vocab, seed).agrees(library, max_path)[1]
            longest = max(longest, lengths.max().item())
    assert longest >= 1


@pytest.mark.parametrize("parents", [CHAIN, FOUR_INNER], ids=["chain", "forks"])
def test_the_whole_path(library: Library, parents: list[int]) -> None:
    """Every node's last child is accepted: the steps of all clusters are followed."""
    call = Call([parents], 7, 0)
    call.target = call.draft.clone()
    call.coins[:] = 0.999
    lasts = [max(c for c, p in enumerate(parents) if p == node) for node in set(parents[1:])]
    call.coins[0, lasts] = 0.0
    assert call.agrees(library, 9)[1].item() == 4
    for max_path in (2, 3, 4):
        assert call.agrees(library, max_path)[1].item() == max_path - 1


def test_kept_rows_outside_shared_memory(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device before Hopper: a block a node, each with rows of its own in memory."""
    if library.name != "emulated":
        pytest.skip("what runs depends on the device")
    monkeypatch.setenv("SPARROW_EMULATED_MAJOR", "8")
    Call([CHAIN], 30_001, 3).agrees(library, 5)
    Call([CHAIN, CHAIN], 30_001, 4).agrees(library, 5)


def test_rows_off_the_path_may_hold_anything(library: Library) -> None:
    for seed in range(4):
        call = Call([FOUR_INNER], 7, seed)
        path = call.agrees(library, 5)[0][0].tolist()
        off = [node for node in range(len(FOUR_INNER)) if node not in path]
        assert off
        wanted = call.of(NATIVE, "cpu", 5)
        call.target[0, off] = torch.nan
        call.draft[0, off] = torch.inf
        got = call.of(library.ops, library.device, 5)
        assert [each.tolist() for each in got] == [each.tolist() for each in wanted]


def test_a_node_without_valid_mass(library: Library) -> None:
    call = Call([CHAIN], 7, 0)
    call.coins[:] = 0.0
    call.target[0, 2] = torch.nan
    assert call.agrees(library, 5)[2].tolist() == [[*call.tokens[0, 1:3].tolist(), -1, -1, -1]]


@pytest.mark.parametrize("seed", range(6))
def test_depths_and_links_of_no_tree(library: Library, seed: int) -> None:
    """One cluster then walks by the links alone, which end where they lead out of the tree."""
    source = random.Random(seed)
    slots = len(FOUR_INNER)
    for _ in range(8):
        call = Call([FOUR_INNER], 7, source.randrange(100))
        for _ in range(source.choice([1, 3])):
            field = source.choice([DEPTH, FIRST_CHILD, NEXT_SIBLING])
            wild = source.choice([-1, 0, 1, slots - 1, slots, 2**31 - 1, -(2**31)])
            call.layout[field][0, source.randrange(slots)] = wild
        call.agrees(library, source.choice([2, 5]))


def test_a_ring_goes_round_to_the_longest_path(library: Library) -> None:
    """Node 2's child is node 1: no depths make a tree of that."""
    for depth in ([0, 1, 2, 3], [0, 1, 1, 2], [0, 0, 0, 0]):
        call = Call([[-1, 0, 1, 2]], 7, 0)
        call.target = call.draft.clone()
        call.coins[:] = 0.0
        call.layout[DEPTH][0] = torch.tensor(depth)
        call.layout[FIRST_CHILD][0, 2] = 1
        assert call.agrees(library, 9)[1].item() == 8


def test_one_call_after_another(library: Library) -> None:
    """Of other trees and batches: what counts the clusters is zero again."""
    for parents in ([CHAIN], [[-1, 0, 1]], [CHAIN, [-1, 0, 0, 0, 0]], [FOUR_INNER], [CHAIN]):
        Call(parents, 7, 1).agrees(library, 6)


def test_idle_requests_beside_others(library: Library) -> None:
    call = Call([[-1, 0, 1], [-1, 0, 1]], 7, 2)
    call.layout = list(NATIVE.build_tree(int32([[-1, 0, 1]] * 2), int32([0, 3]))[:5])
    assert call.agrees(library, 3)[1].tolist()[0] == -1


def test_no_vocabulary_at_all(library: Library) -> None:
    call = Call([CHAIN], 7, 0)
    call.target, call.draft = call.target[..., :0], call.draft[..., :0]
    assert call.agrees(library, 3)[2].tolist() == [[-1, -1, -1]]
