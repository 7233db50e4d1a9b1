"""What the paper says its parts are worth, against what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.ablation.results import Cell, cells

_PLAIN, _MTP, _IVSB = "EAGLE-2 style", "+ MTP", "+ MTP + IVSB"
_FLAT = 0.05  # a share of the mean at the shortest clip


class Claim(NamedTuple):
    """One sentence of the paper."""

    text: str
    in_paper: str
    """Its own numbers, from 0.5k to 25k visual tokens of Qwen2.5-VL-7B."""
    measured: str
    verdict: str


def claims(path: Path) -> list[Claim]:
    """Judged by means over seeds, at every length of the file."""
    found = cells(path)
    lengths = sorted({length for by_length in found.values() for length in by_length})
    ends = lengths[0], lengths[-1]

    def change(system: str, vata: bool) -> float:
        first, last = (found[system, vata][length].mean for length in ends)
        return last / first - 1

    blind = {name: change(name, True) for name in (_PLAIN, _MTP, _IVSB)}
    seeing = {name: change(name, False) for name, vata in found if not vata}
    others = [name for name, fall in seeing.items() if fall >= -_FLAT or fall >= change(name, True)]
    gains = {
        vata: [_apart(found[_MTP, vata][n], found[_PLAIN, vata][n]) for n in lengths]
        for vata in (False, True)
    }
    bridge = {
        vata: [_apart(found[_IVSB, vata][n], found[_MTP, vata][n]) for n in lengths]
        for vata in (False, True)
    }
    return [
        Claim(
            f"VATA keeps tokens a call flat: {_name(ends[1])} within 5 % of {_name(ends[0])}",
            "-2 % (EAGLE-2 style), -4 % (+ MTP), -3 % (+ MTP + IVSB)",
            ", ".join(f"{fall:+.0%} ({name})" for name, fall in blind.items()),
            _verdict(all(abs(fall) <= _FLAT for fall in blind.values())),
        ),
        Claim(
            "drafts that see the clip fall with its length, more than 5 % and more than without it",
            "-25 % (EAGLE-2 style), -21 % (+ MTP), -73 % (+ MTP + IVSB), -75 % (MSD)",
            ", ".join(f"{fall:+.0%} ({name})" for name, fall in seeing.items()),
            _verdict(len(others) < len(seeing), others),
        ),
        Claim(
            "MTP helps everywhere",
            "+0.44 to +0.61 with the clip in sight, +0.41 to +0.50 without",
            f"{_range(gains[False])} with the clip in sight, {_range(gains[True])} without",
            _verdict(all(gain > 0 for both in gains.values() for gain in both)),
        ),
        Claim(
            "IVSB adds a little with VATA, and needs it",
            "+0.02 to +0.08 with VATA; +0.09 to -2.30 without",
            f"{_range(bridge[True])} with VATA; {_range(bridge[False])} without",
            _verdict(min(bridge[True]) > 0 and min(bridge[False]) < 0),
        ),
    ]


def table(path: Path) -> str:
    """Markdown, a row a claim."""
    lines = ["| claim | paper | measured here | |", "|---|---|---|---|"]
    for claim in claims(path):
        lines.append(f"| {' | '.join(claim)} |")
    return "\n".join(lines)


def _verdict(is_confirmed: bool, others: Sequence[str] = ()) -> str:
    if not is_confirmed:
        return "not confirmed"
    return f"confirmed, but for {' and '.join(others)}" if others else "confirmed"


def _apart(first: Cell, second: Cell) -> float:
    return first.mean - second.mean


def _range(values: list[float]) -> str:
    return f"{min(values):+.2f} to {max(values):+.2f}"


def _name(length: int) -> str:
    return f"{length / 1000:g}k" if length >= 1000 else str(length)
