"""What became faster or slower between two result files, beyond noise.

    python -m bench.compare before.csv after.csv
    python -m bench.compare before.csv after.csv --fail-slower 10    # status 1 if one of ours did

A change counts where the medians differ by more than three times the larger of the two spreads
(p80 - p20) and by at least 5 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from bench import options, rows
from bench.matches import median
from bench.rows import Row
from bench.table import print_table

_SPREADS = 3.0
_LEAST_PERCENT = 5.0
_SAME = ("device", "driver", "cuda", "torch", "triton")
"""What must be the same in both files for their times to say something about our code."""
_WORK = ("bytes", "flops", "exps")
"""What a case counts: another count is another case by the same name."""


class Change(NamedTuple):
    """One row in both files."""

    before: Row
    after: Row

    @property
    def percent(self) -> float:
        """How much longer it takes now; negative: it became faster."""
        return 100 * (median(self.after) / median(self.before) - 1)

    @property
    def is_beyond_noise(self) -> bool:
        difference = abs(median(self.after) - median(self.before))
        spread = max(_spread(self.before), _spread(self.after))
        return difference > _SPREADS * spread and abs(self.percent) >= _LEAST_PERCENT


class Comparison(NamedTuple):
    """Two files, row by row."""

    changes: list[Change]
    """Beyond noise; what became slower most comes first."""
    unchanged: int
    only_before: list[Row]
    only_after: list[Row]
    timed: int
    """Ours that have a time in both."""
    lost: list[Change]
    """Had a time, has none now."""
    gained: list[Change]
    warnings: list[str]

    @property
    def failures(self) -> list[Change]:
        """Ours that the gate refuses now."""
        return [each for each in self.lost if each.after.ours and each.after.status == rows.REFUSED]

    def slower(self, percent: float) -> list[Change]:
        """Ours that takes at least `percent` longer."""
        return [each for each in self.changes if each.after.ours and each.percent >= percent]


def compared(before: Sequence[Row], after: Sequence[Row]) -> Comparison:
    """Match the rows of two runs. A row without a time names no inputs: it matches any."""
    pairs, only_before, only_after = _paired(before, after)
    timed = [each for each in pairs if _has_time(each.before) and _has_time(each.after)]
    changes = [each for each in timed if each.is_beyond_noise]
    return Comparison(
        changes=sorted(changes, key=lambda each: -each.percent),
        unchanged=len(timed) - len(changes),
        only_before=only_before,
        only_after=only_after,
        timed=sum(each.after.ours for each in timed),
        lost=[each for each in pairs if _has_time(each.before) and not _has_time(each.after)],
        gained=[each for each in pairs if _has_time(each.after) and not _has_time(each.before)],
        warnings=_warnings(before, after, timed),
    )


def print_comparison(comparison: Comparison) -> None:
    for warning in comparison.warnings:
        print(f"warning: {warning}")
    if comparison.changes:
        print_table([_line(each) for each in comparison.changes])
    counts = f"{len(comparison.changes)} changed, {comparison.unchanged} unchanged"
    print(f"{counts} (noise: {_SPREADS:g} x the larger spread, {_LEAST_PERCENT:g} %)")
    for change in comparison.lost:
        word = "FAILED" if change in comparison.failures else "no time any more"
        print(f"{word}: {_name(change.after)}: {change.after.status}: {change.after.reason}")
    for change in comparison.gained:
        print(f"has a time now: {_name(change.after)}: {median(change.after):.2f} us")
    for word, found in (("before", comparison.only_before), ("after", comparison.only_after)):
        for case, ways in groupby(found, key=lambda row: row.key[:3]):
            names = dict.fromkeys(row.backend for row in ways)
            print(f"only {word}: {' | '.join(case)}: {'; '.join(names)}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--fail-slower", type=options.percent, metavar="PERCENT",
                        help="end with 1 if one of ours takes so much longer, or none of ours has"
                        " a time in both files")  # fmt: skip
    arguments = parser.parse_args(argv)
    try:
        comparison = compared(rows.read(arguments.before), rows.read(arguments.after))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print_comparison(comparison)
    failed = bool(comparison.failures)
    if arguments.fail_slower is not None:
        slower = comparison.slower(arguments.fail_slower)
        failed |= bool(slower)
        for change in slower:
            print(f"SLOWER by {change.percent:.1f} %: {_name(change.after)}")
        if not comparison.timed:  # a limit that nothing was held to is not kept
            print("FAILED: nothing of ours has a time in both files")
            failed = True
    return int(failed)


def _paired(
    before: Sequence[Row], after: Sequence[Row]
) -> tuple[list[Change], list[Row], list[Row]]:
    """Rows of the same key; then, of what is left, a row without a time with any of its case."""
    later = {row.key: row for row in after}
    pairs = [Change(row, later.pop(row.key)) for row in before if row.key in later]
    left = [row for row in before if row.key not in {each.before.key for each in pairs}]
    only_before = []
    for row in left:
        match = next((each for each in later.values() if _is_same_way(row, each)), None)
        if match is None:
            only_before.append(row)
        else:
            pairs.append(Change(row, later.pop(match.key)))
    return pairs, only_before, list(later.values())


def _is_same_way(row: Row, other: Row) -> bool:
    one_is_without = not row.inputs or not other.inputs
    same = (row.op, row.case, row.dtype, row.backend) == (
        other.op, other.case, other.dtype, other.backend,
    )  # fmt: skip
    return one_is_without and same


def _warnings(before: Sequence[Row], after: Sequence[Row], timed: Sequence[Change]) -> list[str]:
    found = []
    for column in _SAME:
        were, are = (_values(file, column) for file in (before, after))
        if were != are:
            found.append(f"{column} differs: {were or 'none'} / {are or 'none'}")
    for change in timed:
        for column in _WORK:
            if getattr(change.before, column) != getattr(change.after, column):
                found.append(f"{_name(change.after)}: {column} differs, so the case did change")
    for word, file in (("before", before), ("after", after)):
        if any(row.dirty for row in file):
            found.append(f"{word}: measured in a checkout with changes that no commit has")
    return found


def _values(file: Sequence[Row], column: str) -> str:
    return ", ".join(sorted({str(getattr(row, column)) for row in file}))


def _line(change: Change) -> dict[str, object]:
    row = change.after
    return {
        "change": f"{change.percent:+.1f} %",
        "before us": change.before.us_p50,
        "after us": row.us_p50,
        "op": row.op,
        "case": row.case,
        "dtype": row.dtype,
        "inputs": row.inputs,
        "way": row.backend if row.ours else f"({row.backend})",
    }


def _name(row: Row) -> str:
    return " | ".join(part for part in row.key if part)


def _has_time(row: Row) -> bool:
    return row.us_p50 is not None


def _spread(row: Row) -> float:
    return (row.us_p80 or 0.0) - (row.us_p20 or 0.0)


if __name__ == "__main__":
    sys.exit(main())
