"""Rows of the same case side by side: the fastest of our backends, and every peer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.rows import Row


class Match(NamedTuple):
    """One case in one state of its inputs on one device. Only rows with a time are in it."""

    op: str
    case: str
    dtype: str
    inputs: str
    ours: Row
    """The fastest of our backends."""
    others: list[Row]
    """The rest of ours, slower."""
    peers: list[Row]
    """Fastest first."""

    @property
    def parameters(self) -> dict[str, str]:
        return self.ours.parameters

    def ratio(self, row: Row) -> float:
        """How many times as long `row` takes as our best: above 1, we are faster."""
        return median(row) / median(self.ours)

    def ratio_range(self, row: Row) -> tuple[float, float]:
        """What `ratio` is between one's p20 over the other's p80 and the reverse."""
        ours = self.ours
        low = (row.us_p20 or median(row)) / (ours.us_p80 or median(ours))
        high = (row.us_p80 or median(row)) / (ours.us_p20 or median(ours))
        return low, high


def matches(rows: Iterable[Row]) -> list[Match]:
    """The cases of `rows` that one of our backends has a time for, in their order."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.us_p50 is not None:
            found.setdefault(place(row), []).append(row)
    made = []
    for (op, case, dtype, inputs, _), ways in found.items():
        ours = _by_time(row for row in ways if row.ours)
        if ours:
            peers = _by_time(row for row in ways if not row.ours)
            made.append(Match(op, case, dtype, inputs, ours[0], ours[1:], peers))
    return made


def place(row: Row) -> tuple[str, str, str, str, str]:
    """What rows must share for their times to stand beside one another. The device is of it: files
    of several may be read together, and integer cases have the same name and dtype on each."""
    return row.op, row.case, row.dtype, row.inputs, row.device


def median(row: Row) -> float:
    """The median of a row that has one."""
    if row.us_p50 is None:
        raise ValueError(f"{' | '.join(row.key)}: no time ({row.status})")
    return row.us_p50


def find(rows: Iterable[Row], key: Sequence[str]) -> Row:
    """The one row whose key is `key`.

    Raises:
        ValueError: none has, or more than one.
    """
    found = [row for row in rows if row.key == tuple(key)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows are {' | '.join(key)}, expected one")
    return found[0]


def _by_time(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=median)
