"""Rows of `measuring.by_length` as a CSV file and as a plot."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparrow_kernels.measuring.by_length import ALL, Row

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_LINES = (("cached", "our plain loop", "#0072b2"), ("generate", "transformers", "#d55e00"))


def write_csv(path: Path, rows: Sequence[Row], facts: Row) -> None:
    """A line a row, its columns by name, and behind them `facts`, which are the same in each.

    Lists are written as 3|0|5, what there is not as nothing.
    """
    with _whole(path) as hidden, hidden.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *facts])
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in (row | facts).items()})


def check_plots() -> None:
    """Raise `ImportError`, with the way on, where plots cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "a plot needs matplotlib, which is not installed (pip install matplotlib)",
            name="matplotlib",
        ) from error


def write_plot(path: Path, rows: Sequence[Row]) -> None:
    """`mean_emitted` and decode speedups over the visual tokens, as a PNG: a dot a clip, a line
    through the lengths.

    Raises:
        ImportError: matplotlib is not installed.
    """
    check_plots()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, rows, "mean_emitted", "", "#009e73")
    left.set_title("Tokens a target call emits", loc="left", fontsize=11)
    for baseline, label, color in _LINES:
        _draw(right, rows, f"decode_speedup_{baseline}", f"over {label}", color)
    right.axhline(1.0, color="#7f7f7f", linewidth=0.8)
    right.set_title("Decode speedup, times", loc="left", fontsize=11)
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.set_xlabel("visual tokens")
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        axes.grid(color="#d8dee4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    with _whole(path) as hidden:
        figure.savefig(hidden, dpi=160, format="png", metadata={"Software": None})


def _draw(axes: Any, rows: Sequence[Row], name: str, label: str, color: str) -> None:
    def points(of_all: bool) -> list[list[float]]:
        found = [row for row in rows if (row["clip"] == ALL) is of_all and row[name] is not None]
        found.sort(key=lambda row: row["visual_tokens"])
        return [[row[one] for row in found] for one in ("visual_tokens", name)]

    axes.plot(*points(True), "o-", color=color, label=label)
    axes.plot(*points(False), "o", color=color, alpha=0.35, markersize=4, markeredgewidth=0)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A hidden file to write instead of `path`, renamed at the end: whole, or as it was before."""
    hidden = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield hidden
        hidden.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        hidden.unlink(missing_ok=True)
