"""How large a tree to draft, in the paper's notation total-depth-width."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparrow_kernels.decoding.auto import AutoTree

MOST_NODES = 4096
"""The largest tree, and the most levels and children a node."""
MOST_GROWN = 2**20
"""The most nodes that levels may grow, of which `total - 1` are kept."""

_MARGINALS = ":marginals"
"""What ends the notation of a tree of marginals."""

_USUAL = ("4-3-1", "12-4-3", "30-4-8")
"""What `TreeConfig.auto` chooses from."""

_NUMBER = "[0-9]{1,99}"  # ASCII digits, and no more than Python reads


@dataclass(frozen=True)
class TreeConfig:
    """The shape of a draft tree.

    Args:
        total: nodes to verify, root included (30 in the paper's 30-4-8).
        depth: draft levels.
        width: children a node, and nodes kept a level. A chain of five tokens is 6-5-1.
        branching: instead of the three above, the children of each node level by level, such as
            `[4, 2, 1]`. Such a tree is drawn from the draft's distribution and none of it is
            dropped, which is what sampling by residual acceptance needs.
        marginals: run the draft along its greedy chain only, one row a level, and keep the best
            `total - 1` combinations of the `width` best tokens of each depth (64-8-16:marginals).

    Raises:
        TypeError: a size that is no whole number, or `marginals` that is no bool.
        ValueError: a size below 1 or above `MOST_NODES`, more nodes than the levels can grow,
            levels that grow more than `MOST_GROWN`, or `branching` with any of the others.
    """

    total: int = 30
    depth: int = 4
    width: int = 8
    branching: tuple[int, ...] | None = None
    marginals: bool = False

    def __init__(
        self,
        total: int | None = None,
        depth: int | None = None,
        width: int | None = None,
        branching: Sequence[int] | None = None,
        marginals: bool = False,
    ) -> None:
        if not isinstance(marginals, bool):
            raise TypeError(
                f"TreeConfig: marginals must be True or False, got {_shown(marginals)}"
                f" ({type(marginals).__name__})"
            )
        if branching is not None:
            if (total, depth, width) != (None, None, None):
                raise ValueError(
                    "TreeConfig: branching must be alone, got it with total, depth or width"
                    " (it fixes all three)"
                )
            if marginals:
                raise ValueError(
                    "TreeConfig: branching must be alone, got it with marginals"
                    " (its nodes are draws, not the best)"
                )
            branching = _children(branching)
            width, depth, total = max(branching), len(branching), _nodes(branching)
        total = 30 if total is None else _size("total", total)
        depth = 4 if depth is None else _size("depth", depth)
        width = 8 if width is None else _size("width", width)
        if marginals:
            _check_marginals(total, depth, width)
        elif branching is None:
            _check_levels(total, depth, width)
        object.__setattr__(self, "total", total)
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "branching", branching)
        object.__setattr__(self, "marginals", marginals)

    @classmethod
    def parse(cls, text: str) -> TreeConfig:
        """Read the paper's notation, such as `30-4-8` or with marginals `64-8-16:marginals`, or a
        branching such as `4x2x1`.

        Raises:
            TypeError: `text` is no text.
            ValueError: neither notation, or a tree that cannot be.
        """
        if not isinstance(text, str):
            raise TypeError(f"tree must be text such as '30-4-8', got {type(text).__name__}")
        words = text.strip()
        if re.fullmatch(rf"{_NUMBER}-{_NUMBER}-{_NUMBER}({_MARGINALS})?", words):
            sizes = words.removesuffix(_MARGINALS)
            total, depth, width = (int(part) for part in sizes.split("-"))
            return cls(total, depth, width, marginals=sizes != words)
        if re.fullmatch(rf"{_NUMBER}(x{_NUMBER})+", words):
            return cls(branching=[int(part) for part in words.split("x")])
        raise ValueError(
            "tree must be total-depth-width such as 30-4-8 or 64-8-16:marginals, or children a"
            f" level such as 4x2x1, got {_shown(text)}"
        )

    @staticmethod
    def auto(*candidates: TreeConfig | str, patience: int = 32) -> AutoTree:
        """A tree chosen call by call, or none, from what steps have cost and emitted so far.

        Args:
            candidates: trees to choose from; a chain, a narrow and a wide tree where none is given.
            patience: every so many calls, 2 or more, what was tried longest ago is tried again.

        Raises:
            ValueError: a candidate in neither notation of `parse`, or less patience.
        """
        from sparrow_kernels.decoding.auto import AutoTree

        trees = [TreeConfig.parse(c) if isinstance(c, str) else c for c in candidates or _USUAL]
        return AutoTree(trees, patience)

    def __str__(self) -> str:
        if self.branching is not None:
            return "x".join(str(children) for children in self.branching)
        return f"{self.total}-{self.depth}-{self.width}{_MARGINALS if self.marginals else ''}"

    @property
    def max_path(self) -> int:
        """S: the most nodes a path can have, root included."""
        return self.depth + 1

    @property
    def draft_slots(self) -> int:
        """Tree slots the draft's cache needs behind its committed rows.

        Grown nodes of every level but the last, or the rows of a refresh, whichever is more.
        """
        return max(self.grown_slots, self.max_path)

    @property
    def grown_slots(self) -> int:
        """Nodes the draft is run on while a tree grows: all levels but the last, of marginals the
        best node of each."""
        if self.marginals:
            return self.depth - 1
        if self.branching is None:
            return (self.depth - 1) * self.width
        nodes, level = 0, 1
        for children in self.branching[:-1]:
            level *= children
            nodes += level
        return nodes


def _check_levels(total: int, depth: int, width: int) -> None:
    """Refuse a tree that levels of `width` nodes cannot grow, or not within bounds."""
    grown = width + (depth - 1) * width**2
    if total - 1 > grown:
        raise ValueError(
            f"TreeConfig: total must be at most {1 + grown} for depth"
            f" {depth} and width {width}, got {total} (a level grows at most width^2 nodes)"
        )
    if grown > MOST_GROWN:
        raise ValueError(
            f"TreeConfig: depth and width must grow at most {MOST_GROWN} nodes, got {grown}"
            f" for depth {depth} and width {width} (a level grows width^2)"
        )


def _check_marginals(total: int, depth: int, width: int) -> None:
    """Refuse a tree of more nodes than there are combinations, or of too many kept on the way."""
    level, combinations, grown = 1, 0, 0
    for _ in range(depth):
        level = min(level * width, MOST_NODES)  # no tree has more, and numbers stay short
        combinations += level
        grown += min(level, total - 1)
    if total - 1 > combinations:
        raise ValueError(
            f"TreeConfig: total must be at most {1 + combinations} for depth {depth} and width"
            f" {width} with marginals, got {total} (depth d has width^d combinations)"
        )
    if grown > MOST_GROWN:
        raise ValueError(
            f"TreeConfig: total and depth must grow at most {MOST_GROWN} nodes with marginals, got"
            f" {grown} for total {total} and depth {depth} (a level keeps up to total - 1)"
        )


def _size(name: str, value: Any) -> int:
    """`value` as an int, be it numpy's."""
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(
            f"TreeConfig: {name} must be a whole number, got {_shown(value)}"
            f" ({type(value).__name__})"
        )
    if not 1 <= number <= MOST_NODES:
        raise ValueError(
            f"TreeConfig: {name} must be a whole number from 1 to {MOST_NODES},"
            f" got {_shown(number)}"
        )
    return number


def _children(branching: Any) -> tuple[int, ...]:
    """The children a level of a `branching`, at least one."""
    if isinstance(branching, (str, bytes)) or not isinstance(branching, Iterable):
        raise TypeError(
            f"TreeConfig: branching must be children a level such as [4, 2, 1],"
            f" got {_shown(branching)}"
        )
    children = tuple(_size("branching", each) for each in branching)
    if not children:
        raise ValueError("TreeConfig: branching must have a level or more, got none")
    return children


def _nodes(branching: tuple[int, ...]) -> int:
    """The nodes of a tree, root included."""
    total, level = 1, 1
    for children in branching:
        level *= children
        total += level
        if total > MOST_NODES:
            raise ValueError(
                f"TreeConfig: branching must make at most {MOST_NODES} nodes,"
                f" got {_shown(list(branching))}"
            )
    return total


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:60]}…"
