"""What was predicted of a case, to stand beside what is measured."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench.rows import RESULTS

TABLE = RESULTS / "predicted.csv"
COLUMNS = ("op", "case", "device", "us_low", "us_high", "floor_us", "percent_of_floor", "basis")


class Prediction(NamedTuple):
    """A range of microseconds, by arithmetic: predicted, not measured."""

    us_low: float
    us_high: float
    floor_us: float
    percent_of_floor: float
    """Of the middle of the range."""

    @property
    def text(self) -> str:
        return f"{self.us_low:.3g}–{self.us_high:.3g}"


Key = tuple[str, frozenset[str], str]
"""An op, the words of a case, a device."""


@cache
def read(path: Path = TABLE) -> dict[Key, Prediction]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            (row["op"], frozenset(row["case"].split()), row["device"]): Prediction(
                *(float(row[name]) for name in Prediction._fields)
            )
            for row in csv.DictReader(file)
        }


def of_case(op: str, words: Iterable[str], device: str) -> Prediction | None:
    """For a case by its words, such as `T=64`, on a device of `devices`."""
    return read().get((op, frozenset(words), device))


def known(device: str) -> str | None:
    """The short name of a device by its full one, such as "NVIDIA H100 80GB HBM3"."""
    return next((name for name in sorted({key[2] for key in read()}) if name in device), None)
