"""`select_tree` against the definition of the rerank: rank, order, renumber."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import each_backend, strided

from sparrow_kernels import build_tree, select_tree
from sparrow_kernels.ops import env
from sparrow_kernels.ops.tree.ops import SELECT_TREE

RUNS = each_backend(SELECT_TREE)


def expected_selection(
    scores: list[float], parent: list[int], num_nodes: int
) -> tuple[list[int], list[int]]:
    def rank(node: int) -> float:
        above = parent[node]
        return scores[node] if above == -1 else min(scores[node], rank(above))

    def beats(node: int) -> int:
        """How many pool nodes come before this one."""
        return sum(
            rank(other) > rank(node) or (rank(other) == rank(node) and other < node)
            for other in range(len(scores))
        )

    selected = [node for node in range(len(scores)) if beats(node) < num_nodes - 1]
    above = [parent[node] for node in selected]
    return selected, [-1] + [0 if node == -1 else 1 + selected.index(node) for node in above]


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[float], list[int], int]:
    size = draw(st.integers(1, 12))
    # Few distinct scores, so that ties are common; both zeros, which tie.
    score = st.sampled_from([0.0, -0.0, -0.5, -1.0, -2.0, -math.inf])
    parent = [draw(st.integers(-1, node - 1)) for node in range(size)]
    return [draw(score) for _ in range(size)], parent, draw(st.integers(1, size + 1))


@RUNS
@given(pools())
@settings(max_examples=150, deadline=None)
def test_selection_of_drawn_pools(backend: str, drawn: tuple[list[float], list[int], int]) -> None:
    scores, parent, num_nodes = drawn
    with env.backend(backend):
        selected, above = select_tree(
            torch.tensor([scores]), torch.tensor([parent], dtype=torch.int32), num_nodes
        )
        build_tree(above)  # the checked op: what comes out is a tree
    expected = expected_selection(scores, parent, num_nodes)
    assert (selected[0].tolist(), above[0].tolist()) == expected


@RUNS
@pytest.mark.parametrize(("pool", "num_nodes"), [(64, 65), (65, 30), (130, 64), (200, 128)])
def test_selection_of_large_batches(backend: str, pool: int, num_nodes: int) -> None:
    generator = torch.Generator().manual_seed(pool)
    scores = torch.randn(3, pool, generator=generator)
    share = torch.rand(3, pool, generator=generator)
    parent = (share * (torch.arange(pool) + 1)).int() - 1
    with env.backend(backend):
        selected, above = select_tree(strided(scores), strided(parent), num_nodes)
    assert selected.dtype == above.dtype == torch.int32
    for b in range(3):
        expected = expected_selection(scores[b].tolist(), parent[b].tolist(), num_nodes)
        assert (selected[b].tolist(), above[b].tolist()) == expected


@RUNS
def test_a_grown_pool_as_the_draft_makes_it(backend: str) -> None:
    """Level 1 of two nodes, each with two children; a child outranks its parent by score."""
    scores = torch.tensor([[-1.0, -2.0, -1.5, -3.0, -0.5, -4.0]])
    parent = torch.tensor([[-1, -1, 0, 0, 1, 1]], dtype=torch.int32)
    with env.backend(backend):
        selected, above = select_tree(scores, parent, 5)
    assert selected.tolist() == [[0, 1, 2, 4]]
    assert above.tolist() == [[-1, 0, 0, 1, 2]]


@RUNS
def test_bad_values(backend: str) -> None:
    scores = torch.tensor([[-1.0, math.nan, -0.5, -2.0]])
    parent = torch.tensor([[-1, -1, 1, 0]], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"select_tree: scores must be numbers.*\[0\]\[1\] = nan"):
        select_tree(scores, parent, 3)
    late = torch.tensor([[-1, 3, -7, 2**31 - 1]], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"select_tree: parent must be .*parent\[0\]\[1\] = 3"):
        select_tree(scores.nan_to_num(), late, 3)
    with env.backend(backend), env.checks(False):
        # NaN ranks last, and takes its subtree along; a late parent counts as the root.
        selected, above = select_tree(scores, parent, 3)
        assert (selected.tolist(), above.tolist()) == ([[0, 3]], [[-1, 0, 1]])
        selected, above = select_tree(torch.tensor([[-1.0, -2.0, -0.5, -3.0]]), late, 5)
        assert (selected.tolist(), above.tolist()) == ([[0, 1, 2, 3]], [[-1, 0, 0, 0, 0]])


@RUNS
def test_empty_batch(backend: str) -> None:
    with env.backend(backend):
        selected, above = select_tree(torch.empty(0, 5), torch.empty(0, 5, dtype=torch.int32), 4)
    assert (selected.shape, above.shape) == ((0, 3), (0, 4))


def test_wrong_kinds_are_refused() -> None:
    scores, parent = torch.zeros(1, 3), torch.tensor([[-1, -1, 0]], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"num_nodes must be in 1..P \+ 1 = 4, got 5"):
        select_tree(scores, parent, 5)
    with pytest.raises(ValueError, match=r"num_nodes must be in 1..P \+ 1 = 4, got 0"):
        select_tree(scores, parent, 0)
    with pytest.raises(TypeError, match="scores must be float32, got float64"):
        select_tree(scores.double(), parent, 2)
    with pytest.raises(ValueError, match=r"parent must be \[B, P\] = \[1, 3\], got \[1, 2\]"):
        select_tree(scores, parent[:, :2], 2)
