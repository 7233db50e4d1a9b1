"""The paper's notation and its limits."""

from __future__ import annotations

import pytest

from sparrow_kernels.decoding import TreeConfig


@pytest.mark.parametrize(
    "text, total, depth, width, slots",
    [("30-4-8", 30, 4, 8, 24), ("6-5-1", 6, 5, 1, 6), ("2-1-1", 2, 1, 1, 2)],
)
def test_parse(text: str, total: int, depth: int, width: int, slots: int) -> None:
    tree = TreeConfig.parse(text)
    assert (tree.total, tree.depth, tree.width) == (total, depth, width)
    assert tree.draft_slots == slots
    assert str(tree) == text
    assert tree.max_path == depth + 1


def test_branching_counts_its_nodes() -> None:
    tree = TreeConfig(branching=[4, 2, 1])
    assert (tree.total, tree.depth, tree.grown_slots) == (1 + 4 + 8 + 8, 3, 12)
    assert TreeConfig.parse("4x2x1") == tree


@pytest.mark.parametrize("text", ["30-4", "", "a-b-c", "30-4-8-1", "-1-2-3", "4x"])
def test_malformed_notation_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="tree must be total-depth-width such as 30-4-8"):
        TreeConfig.parse(text)


@pytest.mark.parametrize("total, depth, width", [(12, 5, 1), (3, 1, 1), (0, 1, 1), (6, 0, 1)])
def test_impossible_sizes_are_refused(total: int, depth: int, width: int) -> None:
    with pytest.raises(ValueError, match="TreeConfig"):
        TreeConfig(total, depth, width)


def test_the_largest_tree_is_allowed() -> None:
    assert TreeConfig(1 + 3 + 2 * 9, 3, 3).total == 22
    with pytest.raises(ValueError, match="total must be at most 22"):
        TreeConfig(23, 3, 3)
