"""accept_tree of every native library, called directly, against its definition."""

from __future__ import annotations

import random

import pytest
import torch
from emulation import Library
from hypothesis import given
from hypothesis import strategies as st
from tree_oracle import int32, lay_out, tree_batches, walk

BUILD_TREE = torch.ops.sparrow_native.build_tree


def assert_accepted(
    library: Library,
    parents: list[list[int]],
    counts: list[int],
    tokens: list[list[int]],
    target_tokens: list[list[int]],
    max_path: int,
) -> None:
    layout = BUILD_TREE(int32(parents), int32(counts))[:5]
    path, accept_length, emitted = library.ops.accept_tree(
        torch.tensor(tokens), *layout, torch.tensor(target_tokens), max_path
    )
    for b, (parent, num_nodes) in enumerate(zip(parents, counts, strict=True)):
        wanted = walk(lay_out(parent, num_nodes), tokens[b], target_tokens[b], max_path)
        got = (path[b].tolist(), accept_length[b].item(), emitted[b].tolist())
        assert got == wanted


@given(tree_batches(), st.integers(0, 2**32), st.sampled_from([1, 2, 5, 1000]))
def test_accept_tree(library: Library, batch: tuple, seed: int, vocab: int) -> None:
    """A small vocabulary makes siblings with the same token and long paths."""
    parents, counts = batch
    source = random.Random(seed)
    slots = len(parents[0])

    def draw() -> list[list[int]]:
        return [[source.randrange(vocab) for _ in range(slots)] for _ in parents]

    assert_accepted(library, parents, counts, draw(), draw(), source.randint(1, slots + 1))


@pytest.mark.parametrize("slots", [1, 64, 65, 1024])
@pytest.mark.parametrize("kind", ["all accepted", "all refused", "cut short"])
def test_a_chain(library: Library, slots: int, kind: str) -> None:
    parent, tokens = list(range(-1, slots - 1)), list(range(100, 100 + slots))
    target = [-7] * slots if kind == "all refused" else [token + 1 for token in tokens]
    max_path = max(1, slots // 2) if kind == "cut short" else slots
    assert_accepted(library, [parent], [slots], [tokens], [target], max_path)


def test_a_star_takes_the_lowest_of_equal_siblings(library: Library) -> None:
    layout = BUILD_TREE(int32([[-1] + [0] * 1023]), None)[:5]
    tokens = torch.zeros(1, 1024, dtype=torch.long)
    tokens[0, 500:] = 9
    path, accept_length, emitted = library.ops.accept_tree(
        tokens, *layout, torch.full((1, 1024), 9), 3
    )
    assert path.tolist() == [[0, 500, -1]]
    assert (accept_length.tolist(), emitted.tolist()) == ([1], [[9, 9, -1]])


def test_strided_inputs(library: Library) -> None:
    wide = torch.full((2, 9), 3)
    layout = [f.repeat(1, 2)[:, :3] for f in BUILD_TREE(int32([[-1, 0, 1]] * 2), None)[:2]]
    ancestors, first_child, next_sibling = BUILD_TREE(int32([[-1, 0, 1]] * 2), None)[2:5]
    layout += [ancestors, first_child, next_sibling]
    path, _, _ = library.ops.accept_tree(wide[:, :3], *layout, wide[:, 6:], 3)
    assert path.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("wild", [2**31 - 1, -(2**31), 3, -2, 0, 1])
def test_a_wild_layout_ends_the_walk(library: Library, wild: int) -> None:
    """No reading outside, and no ring that is walked for ever."""
    links = int32([[wild] * 3])
    path, accept_length, _ = library.ops.accept_tree(
        torch.tensor([[5, 6, 7]]),
        links,
        int32([[0, 1, 2]]),
        torch.zeros(1, 3, 1, dtype=torch.long),
        links,
        links,
        torch.tensor([[7, 7, 7]]),
        6,
    )
    assert bool(((path >= -1) & (path < 3)).all())
    assert 0 <= accept_length.item() < 6


def test_refusals_name_the_argument(library: Library) -> None:
    tokens = torch.zeros(1, 3, dtype=torch.long)
    layout = BUILD_TREE(int32([[-1, 0, 0]]), None)[:5]
    cases = [
        ((tokens.int(), *layout, tokens, 2), "tokens must be Long, got Int"),
        ((tokens, *layout, tokens[:, :2], 2), r"target_tokens must be \[1, 3\], got \[1, 2\]"),
        ((tokens, *layout, tokens, 0), "max_path must be at least 1, got 0"),
        ((tokens, *layout[:3], layout[3][:, :2], layout[4], tokens, 2), "first_child must be"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=f"accept_tree: {message}"):
            library.ops.accept_tree(*arguments)
