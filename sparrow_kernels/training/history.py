"""What a run looked like: a line every few steps, as CSV and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparrow_kernels.training.checkpoint import whole

COLUMNS = ("step", "loss", "learning_rate", "mean_emitted_estimate", "mean_emitted_held_out")
Entry = dict[str, float | int | None]
"""A value a column, None where it was not measured at that step."""


def write_csv(entries: Sequence[Entry], path: Path) -> None:
    """All of them, in the place of an earlier file."""
    with whole(path) as fresh, fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(entries)


def draw(entries: Sequence[Entry], path: Path) -> bool:
    """Loss and tokens a target call, by step; whether there was matplotlib to draw with."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    losses = figure.add_subplot()
    emitted = losses.twinx()
    lines = [
        _line(losses, entries, "loss", "loss", "tab:gray"),
        _line(emitted, entries, "mean_emitted_estimate", "in training, estimated", "tab:blue"),
        _line(emitted, entries, "mean_emitted_held_out", "held out", "tab:red", marker="o"),
    ]
    losses.set(xlabel="step", ylabel="loss")
    emitted.set_ylabel("tokens a target call")
    losses.legend(handles=[line for line in lines if line is not None], loc="center right")
    with whole(path) as fresh:
        figure.savefig(fresh, dpi=120, format="png")
    return True


def _line(
    axes: Any, entries: Sequence[Entry], column: str, label: str, color: str, **style: Any
) -> Any:
    known = [(e["step"], e[column]) for e in entries if e.get(column) is not None]
    if not known:
        return None
    (line,) = axes.plot(*zip(*known, strict=True), label=label, color=color, **style)
    return line
