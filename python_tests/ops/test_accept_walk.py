"""`accept_tree` against the definition of the walk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import (
    SIZES,
    Tree,
    children,
    each_backend,
    forests,
    named_trees,
    padded,
    random_tree,
    strided,
)

from sparrow_kernels import Acceptance, TreeLayout, accept_tree, build_tree
from sparrow_kernels.ops import env
from sparrow_kernels.ops.accept.ops import ACCEPT_TREE
from sparrow_kernels.testing import guard_rows

RUNS = each_backend(ACCEPT_TREE)


def expected_walk(
    tree: Tree, tokens: list[int], target_tokens: list[int], max_path: int
) -> tuple[list[int], list[int]]:
    """The path, and the tokens emitted at its nodes; empty for an idle request."""
    path = [0] if tree else []
    while path and len(path) < max_path:
        wanted = target_tokens[path[-1]]
        agreeing = [child for child in children(tree, path[-1]) if tokens[child] == wanted]
        if not agreeing:
            break
        path.append(min(agreeing))
    return path, [target_tokens[node] for node in path]


def expect(
    accepted: Acceptance,
    batch: list[Tree],
    tokens: torch.Tensor,
    target_tokens: torch.Tensor,
    max_path: int,
) -> None:
    assert accepted.path.dtype == accepted.accept_length.dtype == torch.int32
    assert accepted.tokens.dtype == torch.int64
    for b, tree in enumerate(batch):
        path, emitted = expected_walk(tree, tokens[b].tolist(), target_tokens[b].tolist(), max_path)
        padding = [-1] * (max_path - len(path))
        assert accepted.path[b].tolist() == path + padding
        assert accepted.tokens[b].tolist() == emitted + padding
        assert accepted.accept_length[b] == len(path) - 1


@RUNS
@given(forests(), st.data())
@settings(max_examples=120, deadline=None)
def test_drawn_walks(backend: str, drawn: tuple[list[Tree], int], data: st.DataObject) -> None:
    """Ragged and idle requests; three tokens, so that siblings repeat and agreement is common."""
    batch, size = drawn
    max_path = data.draw(st.integers(1, 8))
    rows = st.lists(st.integers(0, 2), min_size=size, max_size=size)
    tokens = torch.tensor([data.draw(rows) for _ in batch])
    target_tokens = torch.tensor([data.draw(rows) for _ in batch])
    with env.backend(backend):
        layout = build_tree(*padded(batch, size))
        accepted = accept_tree(tokens, layout, target_tokens, max_path)
    expect(accepted, batch, tokens, target_tokens, max_path)


@RUNS
@pytest.mark.parametrize("name", named_trees())
@pytest.mark.parametrize("agreement", ["all refused", "all accepted", "half"])
def test_named_trees(backend: str, name: str, agreement: str) -> None:
    tree = named_trees()[name]
    size = len(tree)
    tokens = torch.arange(size) % 2 if agreement == "half" else torch.zeros(size).long()
    target_tokens = torch.full((size,), 7) if agreement == "all refused" else torch.zeros(size)
    tokens, target_tokens = tokens[None], target_tokens.long()[None]
    for max_path in (1, 2, size, size + 3):
        with env.backend(backend):
            layout = build_tree(torch.tensor([tree], dtype=torch.int32))
            accepted = accept_tree(tokens, layout, target_tokens, max_path)
        expect(accepted, [tree], tokens, target_tokens, max_path)
        if agreement == "all refused":
            assert (accepted.accept_length.item(), accepted.tokens[0, 0].item()) == (0, 7)


@RUNS
@pytest.mark.parametrize("size", [*SIZES, 1024])
def test_random_trees_behind_strides(backend: str, size: int) -> None:
    batch = [random_tree(size, seed) for seed in range(3)]
    generator = torch.Generator().manual_seed(size)
    tokens = strided(torch.randint(0, 3, (3, size), generator=generator))
    target_tokens = strided(torch.randint(0, 3, (3, size), generator=generator))
    with env.backend(backend):
        layout = build_tree(torch.tensor(batch, dtype=torch.int32))
        apart = TreeLayout(*map(strided, layout[:5]), layout.status)
        accepted = accept_tree(tokens, apart, target_tokens, 12)
    expect(accepted, batch, tokens, target_tokens, 12)


@RUNS
def test_duplicates_go_to_the_lowest_numbered_child(backend: str) -> None:
    tree = [-1, 0, 0, 0, 2, 3]
    tokens = torch.tensor([[0, 5, 6, 6, 8, 9]])
    target_tokens = torch.tensor([[6, 0, 9, 9, 1, 2]])
    with env.backend(backend):
        layout = build_tree(torch.tensor([tree], dtype=torch.int32))
        accepted = accept_tree(tokens, layout, target_tokens, 4)
    assert accepted.path.tolist() == [[0, 2, -1, -1]]  # node 3 holds 6 too, and 9 below it
    assert accepted.tokens.tolist() == [[6, 9, -1, -1]]


@RUNS
def test_malformed_tree_and_empty_batch(backend: str) -> None:
    parent = torch.tensor([[-1, 0, 5, 1]], dtype=torch.int32)
    zeros = torch.zeros(1, 4, dtype=torch.int64)
    with env.backend(backend), env.checks(False):
        accepted = accept_tree(zeros, build_tree(parent), zeros, 3)
        assert accepted.path.tolist() == [[0, -1, -1]]
        empty = accept_tree(zeros[:0], build_tree(parent[:0]), zeros[:0], 3)
    assert [field.shape for field in empty] == [(0, 3), (0,), (0, 3)]


FAR = (-(2**31), -7, 4, 999, 2**31 - 1)


@RUNS
@pytest.mark.parametrize("field", ["first_child", "next_sibling"])
@pytest.mark.parametrize("link", FAR)
def test_links_out_of_the_tree_end_the_walk(backend: str, field: str, link: int) -> None:
    layout = build_tree(torch.tensor([[-1, 0, 0, 0]], dtype=torch.int32))
    tokens, target_tokens = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[2, 0, 0, 0]])
    node = 0 if field == "first_child" else 1
    getattr(layout, field)[0, node] = link
    with pytest.raises(
        ValueError, match=rf"accept_tree: layout.{field} .*\[0\]\[{node}\] = {link}"
    ):
        accept_tree(tokens, layout, target_tokens, 3)
    with guard_rows() as guards, env.backend(backend), env.checks(False):
        apart = TreeLayout(*map(guards.copy, layout))
        accepted = accept_tree(guards.copy(tokens), apart, guards.copy(target_tokens), 3)
    assert accepted.path.tolist() == [[0, -1, -1]]


@RUNS
@pytest.mark.parametrize("next_sibling", [[-1, 1, -1, -1], [-1, 2, 1, -1], [-1, 2, 0, -1]])
def test_rings_of_siblings_end(backend: str, next_sibling: list[int]) -> None:
    layout = build_tree(torch.tensor([[-1, 0, 0, 0]], dtype=torch.int32))
    layout.next_sibling[0] = torch.tensor(next_sibling)
    tokens, target_tokens = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[9, 0, 0, 0]])
    with pytest.raises(ValueError, match="layout.next_sibling must be -1 or a later node"):
        accept_tree(tokens, layout, target_tokens, 3)
    with env.backend(backend), env.checks(False):
        assert accept_tree(tokens, layout, target_tokens, 3).path.tolist() == [[0, -1, -1]]


@RUNS
def test_ring_of_children_ends_at_max_path(backend: str) -> None:
    layout = build_tree(torch.tensor([[-1, 0, 0, 0]], dtype=torch.int32))
    layout.first_child[0] = torch.tensor([1, 0, -1, -1])
    zeros = torch.zeros(1, 4, dtype=torch.int64)
    with env.backend(backend), env.checks(False):
        accepted = accept_tree(zeros, layout, zeros, 5)
    assert accepted.path.tolist() == [[0, 1, 0, 1, 0]]


def test_wrong_kinds_are_refused() -> None:
    layout = build_tree(torch.tensor([[-1, 0]], dtype=torch.int32))
    tokens = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="accept_tree: max_path must be at least 1"):
        accept_tree(tokens, layout, tokens, 0)
    with pytest.raises(TypeError, match="accept_tree: tokens must be int64, got int32"):
        accept_tree(tokens.int(), layout, tokens, 2)
    with pytest.raises(TypeError, match="layout must be a TreeLayout, got tuple"):
        accept_tree(tokens, tuple(layout), tokens, 2)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"target_tokens must be \[B, T\] = \[1, 2\], got \[1, 1\]"
    ):
        accept_tree(tokens, layout, tokens[:, :1], 2)
    with pytest.raises(ValueError, match=r"layout.ancestors must be \[B, T, W\] = \[1, 2, 1\]"):
        accept_tree(tokens, layout._replace(ancestors=torch.zeros(1, 2, 2).long()), tokens, 2)
