"""How large a tree to draft, in the paper's notation total-depth-width."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


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

    Raises:
        ValueError: a size below 1, more nodes than the levels can grow, or both notations at once.
    """

    total: int = 30
    depth: int = 4
    width: int = 8
    branching: tuple[int, ...] | None = None

    def __init__(
        self,
        total: int | None = None,
        depth: int | None = None,
        width: int | None = None,
        branching: Sequence[int] | None = None,
    ) -> None:
        if branching is not None:
            if (total, depth, width) != (None, None, None):
                raise ValueError(
                    "TreeConfig: branching must be alone, got it with total, depth or width"
                    " (it fixes all three)"
                )
            branching = tuple(int(children) for children in branching)
            if not branching or min(branching) < 1:
                raise ValueError(
                    f"TreeConfig: branching must be children a level, each at least 1,"
                    f" got {list(branching)}"
                )
            width, depth = max(branching), len(branching)
            total, level = 1, 1
            for children in branching:
                level *= children
                total += level
        total = 30 if total is None else total
        depth = 4 if depth is None else depth
        width = 8 if width is None else width
        for name, value in (("total", total), ("depth", depth), ("width", width)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"TreeConfig: {name} must be a whole number >= 1, got {value!r}")
        if branching is None and total - 1 > width + (depth - 1) * width**2:
            raise ValueError(
                f"TreeConfig: total must be at most {1 + width + (depth - 1) * width**2} for depth"
                f" {depth} and width {width}, got {total} (a level grows at most width^2 nodes)"
            )
        object.__setattr__(self, "total", total)
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "branching", branching)

    @classmethod
    def parse(cls, text: str) -> TreeConfig:
        """Read the paper's notation, such as `30-4-8`, or a branching such as `4x2x1`."""
        if re.fullmatch(r"\d+-\d+-\d+", text):
            total, depth, width = (int(part) for part in text.split("-"))
            return cls(total, depth, width)
        if re.fullmatch(r"\d+(x\d+)+", text):
            return cls(branching=[int(part) for part in text.split("x")])
        raise ValueError(
            f"tree must be total-depth-width such as 30-4-8, or children a level such as 4x2x1,"
            f" got {text!r}"
        )

    def __str__(self) -> str:
        if self.branching is not None:
            return "x".join(str(children) for children in self.branching)
        return f"{self.total}-{self.depth}-{self.width}"

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
        """Nodes the draft is run on while a tree grows: all levels but the last."""
        if self.branching is None:
            return (self.depth - 1) * self.width
        nodes, level = 0, 1
        for children in self.branching[:-1]:
            level *= children
            nodes += level
        return nodes
