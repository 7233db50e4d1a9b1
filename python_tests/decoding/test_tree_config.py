"""The paper's notation and its limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

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


@pytest.mark.parametrize(
    "text, total, depth, width, grown, slots",
    [
        ("64-8-16:marginals", 64, 8, 16, 7, 9),
        ("256-1-255:marginals", 256, 1, 255, 0, 2),
        ("1-1-1:marginals", 1, 1, 1, 0, 2),
    ],
)
def test_marginals_grow_a_chain(
    text: str, total: int, depth: int, width: int, grown: int, slots: int
) -> None:
    tree = TreeConfig.parse(text)
    assert tree == TreeConfig(total, depth, width, marginals=True) != TreeConfig(1, 1, 1)
    assert str(tree) == text and TreeConfig.parse(str(tree)) == tree
    assert TreeConfig.parse(f" {text}\n") == tree
    assert (tree.grown_slots, tree.draft_slots, tree.max_path) == (grown, slots, depth + 1)


def test_marginals_are_part_of_what_a_tree_is() -> None:
    plain, marginals = TreeConfig(30, 4, 8), TreeConfig(30, 4, 8, marginals=True)
    assert plain != marginals and len({plain, marginals}) == 2
    assert not plain.marginals and not TreeConfig(branching=[4, 2]).marginals
    with pytest.raises(ValueError, match="branching must be alone, got it with marginals"):
        TreeConfig(branching=[4, 2, 1], marginals=True)


@pytest.mark.parametrize(
    "value, shown", [(1, r"1 \(int\)"), ("yes", r"'yes' \(str\)"), (None, "N")]
)
def test_marginals_are_true_or_false(value: Any, shown: str) -> None:
    with pytest.raises(
        TypeError, match=f"TreeConfig: marginals must be True or False, got {shown}"
    ):
        TreeConfig(marginals=value)


def test_marginals_have_as_many_nodes_as_there_are_combinations() -> None:
    assert TreeConfig(1 + 3 + 9 + 27, 3, 3, marginals=True).total == 40
    said = "total must be at most 40 for depth 3 and width 3 with marginals, got 41"
    with pytest.raises(ValueError, match=said):
        TreeConfig(41, 3, 3, marginals=True)


def test_whitespace_around_the_notation_is_left_out() -> None:
    assert TreeConfig.parse(" 30-4-8\n") == TreeConfig(30, 4, 8)
    assert TreeConfig.parse("4x2 ") == TreeConfig(branching=[4, 2])


@pytest.mark.parametrize(
    "text",
    [
        *("30-4", "", "a-b-c", "30-4-8-1", "-1-2-3", "4x", "30 - 4 - 8", "30-4-8\n30-4-8"),
        *("30-4-8:", "30-4-8:marginal", "30-4:marginals", "4x2:marginals", "30-4-8 :marginals"),
        *("3٠-4-8", "²-1-1", "４x2", "\udcff", "9" * 5000 + "-4-8", "4x" + "9" * 5000),
    ],
)
def test_malformed_notation_is_named(text: str) -> None:
    with pytest.raises(
        ValueError, match="tree must be total-depth-width such as 30-4-8"
    ) as refusal:
        TreeConfig.parse(text)
    assert len(str(refusal.value)) < 200 and "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [None, b"30-4-8", 30, (30, 4, 8), TreeConfig()])
def test_only_text_is_parsed(value: Any) -> None:
    kind = type(value).__name__
    with pytest.raises(TypeError, match=f"^tree must be text such as '30-4-8', got {kind}$"):
        TreeConfig.parse(value)


@pytest.mark.parametrize("total, depth, width", [(12, 5, 1), (3, 1, 1), (0, 1, 1), (6, 0, 1)])
def test_impossible_sizes_are_refused(total: int, depth: int, width: int) -> None:
    with pytest.raises(ValueError, match="TreeConfig"):
        TreeConfig(total, depth, width)


def test_the_largest_tree_is_allowed() -> None:
    assert TreeConfig(1 + 3 + 2 * 9, 3, 3).total == 22
    with pytest.raises(ValueError, match="total must be at most 22"):
        TreeConfig(23, 3, 3)


@pytest.mark.parametrize(
    "text, said",
    [
        ("1000000000-4-8", "total must be a whole number from 1 to 4096, got 1000000000"),
        ("30-1000000000-8", "depth must be a whole number from 1 to 4096, got 1000000000"),
        ("30-4-4097", "width must be a whole number from 1 to 4096, got 4097"),
        ("4097-4096-1", "total must be a whole number from 1 to 4096, got 4097"),
        ("30-5-512", "at most 1048576 nodes, got 1049088 for depth 5 and width 512"),
        ("4097-8-16:marginals", "total must be a whole number from 1 to 4096, got 4097"),
        (
            "7-5-1:marginals",
            "total must be at most 6 for depth 5 and width 1 with marginals, got 7",
        ),
        ("4096-4096-2:marginals", r"at most 1048576 nodes with marginals, got \d+ for total 4096"),
        ("4096", "tree must be total-depth-width"),
        ("4095x1", r"branching must make at most 4096 nodes, got \[4095, 1\]"),
        ("x".join(["9"] * 1000), "branching must make at most 4096 nodes"),
        ("4x0", "branching must be a whole number from 1 to 4096, got 0"),
    ],
)
def test_sizes_nobody_could_hold_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        TreeConfig.parse(text)
    assert len(str(refusal.value)) < 200


def test_the_limits_are_allowed() -> None:
    assert TreeConfig.parse("4096-4095-1").grown_slots == 4094
    assert TreeConfig.parse("4096-4-512").total == 4096
    assert TreeConfig.parse("4096-256-4096:marginals").grown_slots == 255
    assert TreeConfig(branching=[4095]).total == 4096
    assert TreeConfig.parse("64x62").total == 1 + 64 + 64 * 62


@pytest.mark.parametrize(
    "value, shown",
    [
        (True, r"True \(bool\)"),
        (4.0, r"4.0 \(float\)"),
        ("4", r"'4' \(str\)"),
        (torch.tensor(4.0), r"tensor\(4.\) \(Tensor\)"),
    ],
)
def test_sizes_that_are_no_whole_number_are_refused_by_name(value: Any, shown: str) -> None:
    for name in ("total", "depth", "width"):
        with pytest.raises(
            TypeError, match=f"TreeConfig: {name} must be a whole number, got {shown}"
        ):
            TreeConfig(**{name: value})
    with pytest.raises(
        TypeError, match=f"TreeConfig: branching must be a whole number, got {shown}"
    ):
        TreeConfig(branching=[2, value])


@pytest.mark.parametrize("value", ["421", b"421", 4])
def test_a_branching_that_is_no_list_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="branching must be children a level such as"):
        TreeConfig(branching=value)


def test_an_empty_branching_is_refused() -> None:
    with pytest.raises(ValueError, match="branching must have a level or more, got none"):
        TreeConfig(branching=[])


def test_a_number_too_long_to_write_is_refused() -> None:
    with pytest.raises(ValueError, match="total must be a whole number from 1 to 4096, got a num"):
        TreeConfig(10**5000)


def test_integers_of_other_libraries_become_ints() -> None:
    numpy = pytest.importorskip("numpy")
    tree = TreeConfig(numpy.int64(30), torch.tensor(4), numpy.uint8(8))
    assert tree == TreeConfig(30, 4, 8)
    assert {type(size) for size in (tree.total, tree.depth, tree.width)} == {int}
    branching = TreeConfig(branching=numpy.array([4, 2, 1])).branching
    assert branching == (4, 2, 1) and {type(children) for children in branching} == {int}
