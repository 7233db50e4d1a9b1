"""What a run found, as tables to read in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from bench import predicted, rows
from bench.matches import Match, matches, place
from bench.rows import Row
from bench.table import print_table


def print_rows(found: Sequence[Row]) -> None:
    """One table an op, the ways of a case in order of their times, ratios to our best."""
    timed = [row for row in found if row.us_p50 is not None]
    device = predicted.known(timed[0].device) if timed else None
    for op, of_op in groupby(timed, key=lambda row: row.op):
        print(f"\n{op}")
        table = []
        for _, ways in groupby(of_op, key=lambda row: row.key[:-1]):
            for row in sorted(ways, key=lambda row: row.us_p50 or 0.0):
                table.append(
                    {
                        "case": row.case,
                        "dtype": row.dtype,
                        "way": row.backend if row.ours else f"({row.backend})",
                        "us": row.us_p50,
                        "p20": row.us_p20,
                        "p80": row.us_p80,
                        "% of floor": row.percent_of_floor,
                        "x ours": None if row.ours else ratio_text(row, found),
                        "inputs": row.inputs,
                    }
                    | ({} if device is None else {"predicted us": _predicted(row, device)})
                )
        print_table(table)
        for row in timed:
            if row.op == op and row.doubt:
                print(f"not to be believed: {row.case} {row.backend}: {row.doubt}")


def measured_nothing(found: Sequence[Row]) -> bool:
    """Whether none of ours has a time: a gate that nothing went through is not green."""
    return not any(row.ours and row.us_p50 is not None for row in found)


def print_summary(found: Sequence[Row]) -> None:
    """The gate, the worst share of a floor, the best and worst ratio to a peer, what is missing."""
    refused = [row for row in found if row.ours and row.status == rows.REFUSED]
    passed = "nothing of ours was measured" if measured_nothing(found) else "green"
    print(f"\ngate: {'RED' if refused else passed}", end="")
    print("".join(f"\n  {row.op} {row.case} {row.backend}: {row.reason}" for row in refused))
    floors = [row for row in best_of_ours(found) if row.percent_of_floor is not None]
    if floors:
        worst = min(floors, key=lambda row: row.percent_of_floor or 0.0)
        print(f"worst share of the floor: {worst.percent_of_floor:.0f} % {_name(worst)}")
    ratios = [(ratio, row) for row in found if (ratio := speedup(row, found)) and not row.ours]
    if ratios:
        for word, pick in (("best", max), ("worst", min)):
            ratio, row = pick(ratios, key=lambda pair: pair[0])
            print(f"{word} ratio to a peer: {ratio_text(row, found)} x {row.backend} {_name(row)}")
    doubted = sum(bool(row.doubt) for row in found)
    if doubted:
        print(f"not to be believed: {doubted} of {len(found)} rows (above, and in the files)")
    missing = [row for row in found if row.status != rows.OK and not (row.ours and row in refused)]
    for reason, alike in groupby(sorted(missing, key=_why), key=_why):
        names = Counter(row.backend for row in alike)
        ways = ", ".join(f"{name} x{count}" for name, count in names.items())
        print(f"{reason[0]}: {ways}: {reason[1]}")


def best_of_ours(found: Iterable[Row]) -> list[Row]:
    """The fastest of our backends for each case, on each device."""
    best: dict[tuple[str, ...], Row] = {}
    for row in found:
        if row.ours and row.us_p50 is not None:
            where = place(row)
            if where not in best or row.us_p50 < (best[where].us_p50 or 0.0):
                best[where] = row
    return list(best.values())


def speedup(row: Row, found: Sequence[Row]) -> float | None:
    """How many times as long this row takes as the fastest of ours in the same run."""
    match = _match(row, found)
    return None if match is None else match.ratio(row)


def ratio_text(row: Row, found: Sequence[Row]) -> str | None:
    """That, and what it is between the p20 of one and the p80 of the other."""
    match = _match(row, found)
    if match is None:
        return None
    low, high = match.ratio_range(row)
    return f"{match.ratio(row):.2f} ({low:.2f}-{high:.2f})"


def _match(row: Row, found: Sequence[Row]) -> Match | None:
    if row.us_p50 is None:
        return None
    return next((match for match in matches(found) if place(match.ours) == place(row)), None)


def _predicted(row: Row, device: str) -> str:
    """What was predicted of ours, to be held against what was measured."""
    found = predicted.of_case(row.op, row.case.split(), device) if row.ours else None
    return "-" if found is None else found.text


def _why(row: Row) -> tuple[str, str]:
    return row.status, row.reason[:120]


def _name(row: Row) -> str:
    return f"({row.op} {row.case} {row.dtype}, {row.backend if row.ours else 'ours'})"
