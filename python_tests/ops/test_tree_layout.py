"""`build_tree` against the definition of each field."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import (
    SIZES,
    Tree,
    backends,
    children,
    climb,
    each_backend,
    forests,
    named_trees,
    padded,
    random_tree,
    strided,
)

from sparrow_kernels import TreeLayout, build_tree
from sparrow_kernels.ops import env
from sparrow_kernels.ops.tree.ops import BUILD_TREE
from sparrow_kernels.testing import guard_rows

RUNS = each_backend(BUILD_TREE)


def expect(layout: TreeLayout, b: int, tree: Tree, size: int, status: int = 0) -> None:
    """Request b of `layout` is `tree` in `size` slots."""
    fields = [field[b].tolist() for field in layout]
    parent, depth, ancestors, first_child, next_sibling, _ = fields
    assert fields[5] == status
    for node in range(size):
        if node >= len(tree):
            found = (parent[node], depth[node], first_child[node], next_sibling[node])
            assert found == (-1, -1, -1, -1), node
            assert not any(ancestors[node]), node
            continue
        path = climb(tree, node)
        younger = [c for c in children(tree, tree[node]) if c > node]
        assert parent[node] == tree[node], node
        assert depth[node] == len(path) - 1, node
        assert first_child[node] == min(children(tree, node), default=-1), node
        assert next_sibling[node] == min(younger, default=-1), node
        words = [sum(1 << j % 64 for j in path if j // 64 == w) for w in range(-(-size // 64))]
        assert [word % 2**64 for word in ancestors[node]] == words, node


@RUNS
@given(forests())
@settings(max_examples=60, deadline=None)
def test_layout_of_ragged_trees(backend: str, drawn: tuple[list[Tree], int]) -> None:
    batch, size = drawn
    with env.backend(backend):
        layout = build_tree(*padded(batch, size))
    for b, tree in enumerate(batch):
        expect(layout, b, tree, size)


@RUNS
@pytest.mark.parametrize("name", named_trees())
def test_layout_of_named_trees(backend: str, name: str) -> None:
    tree = named_trees()[name]
    with env.backend(backend):
        layout = build_tree(torch.tensor([tree], dtype=torch.int32))
    expect(layout, 0, tree, len(tree))


@RUNS
@pytest.mark.parametrize("size", [*SIZES, 1024])
def test_layout_of_random_trees(backend: str, size: int) -> None:
    batch = [random_tree(size, seed) for seed in range(2)]
    with env.backend(backend):
        layout = build_tree(torch.tensor(batch, dtype=torch.int32))
    for b, tree in enumerate(batch):
        expect(layout, b, tree, size)


@RUNS
def test_dtypes_strides_and_empty_batches(backend: str) -> None:
    batch = [random_tree(70, seed) for seed in range(3)]
    parent = strided(torch.tensor(batch, dtype=torch.int32))
    with env.backend(backend):
        layout = build_tree(parent)
        empty = build_tree(torch.empty(0, 70, dtype=torch.int32))
    for b, tree in enumerate(batch):
        expect(layout, b, tree, 70)
    for whole, none in zip(layout, empty, strict=True):
        assert whole.dtype == none.dtype
        assert none.shape == (0, *whole.shape[1:])
    assert layout.parent.data_ptr() != parent.data_ptr()
    assert [f.dtype for f in layout] == [torch.int32] * 2 + [torch.int64] + [torch.int32] * 3


MALFORMED = {
    "root with a parent": ([0, 0, 1], 0),
    "root below -1": ([-2, 0, 1], 0),
    "own parent": ([-1, 1, 0], 1),
    "later parent": ([-1, 0, 3, 2], 2),
    "second root": ([-1, 0, -1, 2], 2),
    "far parent": ([-1, 0, 1, 2**31 - 1], 3),
    "far negative parent": ([-1, 0, 1, -(2**31)], 3),
}


@RUNS
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_tree_is_its_root_alone(backend: str, name: str) -> None:
    tree, bad = MALFORMED[name]
    size = len(tree)
    batch = [random_tree(size, 5), tree, random_tree(size, 6)]
    with guard_rows() as guards, env.backend(backend), env.checks(False):
        layout = build_tree(guards.copy(torch.tensor(batch, dtype=torch.int32)))
    expect(layout, 0, batch[0], size)
    expect(layout, 1, [-1], size, status=bad + 1)
    expect(layout, 2, batch[2], size)


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_tree_is_refused_by_name(name: str) -> None:
    tree, bad = MALFORMED[name]
    parent = torch.tensor([tree, tree], dtype=torch.int32)
    parent[0] = torch.tensor(random_tree(len(tree), 5))
    message = rf"build_tree: parent must be .*, got parent\[1\]\[{bad}\] = {tree[bad]}$"
    with pytest.raises(ValueError, match=message):
        build_tree(parent)


@RUNS
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_num_nodes_out_of_range(backend: str, counts: list[int]) -> None:
    batch = [random_tree(5, seed) for seed in range(3)]
    num_nodes = torch.tensor(counts, dtype=torch.int32)
    with env.backend(backend), env.checks(False):
        layout = build_tree(torch.tensor(batch, dtype=torch.int32), num_nodes)
    for b, count in enumerate(counts):
        expect(layout, b, batch[b][: min(max(count, 0), 5)], 5)
    if any(not 0 <= count <= 5 for count in counts):
        with pytest.raises(ValueError, match=r"build_tree: num_nodes must be in 0\.\.T = 5, got"):
            build_tree(torch.tensor(batch, dtype=torch.int32), num_nodes)


def test_wrong_kinds_are_refused() -> None:
    parent = torch.tensor([[-1, 0]], dtype=torch.int32)
    with pytest.raises(TypeError, match="build_tree: parent must be int32, got int64"):
        build_tree(parent.long())
    with pytest.raises(ValueError, match=r"build_tree: parent must be \[B, T\], got \[2\]"):
        build_tree(parent[0])
    with pytest.raises(ValueError, match=r"num_nodes must be \[B\] = \[1\], got \[2\]"):
        build_tree(parent, torch.tensor([1, 1], dtype=torch.int32))
    with pytest.raises(ValueError, match="T >= 1"):
        build_tree(parent[:, :0])
    with pytest.raises(ValueError, match="contiguous in its last dim"):
        build_tree(torch.zeros(2, 2, dtype=torch.int32).T)
    with pytest.raises(TypeError, match="must be a tensor"):
        build_tree([[-1, 0]])  # type: ignore[arg-type]


def test_some_backend_is_tested() -> None:
    assert "reference" in backends(BUILD_TREE)
