"""How every plot looks: two themes, one palette that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

matplotlib.use("Agg")

WIDTH = 8.4
"""Inches. A README column shows that at about its own size, so 10 points are 10 points."""


class Theme(NamedTuple):
    """Colours for one background."""

    name: str
    background: str
    text: str
    faint: str
    ours: str
    others: tuple[str, ...]


# Okabe and Ito's palette; blue is ours and nobody else's. Its black would vanish on dark.
LIGHT = Theme(
    "light", "#ffffff", "#1f2328", "#d8dee4", "#0072b2",
    ("#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f7f7f"),
)  # fmt: skip
DARK = Theme(
    "dark", "#0d1117", "#e6edf3", "#30363d", "#58a6ff",
    ("#ff8c42", "#2fc59b", "#e29cc5", "#e6c229", "#a5d8ff", "#9aa4ae"),
)  # fmt: skip
THEMES = (LIGHT, DARK)
MARKERS = "osD^vP"


@contextmanager
def themed(theme: Theme) -> Iterator[None]:
    """Figures made inside look like `theme`, and are the same file every time."""
    settings: dict[Any, Any] = {
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.edgecolor": theme.text,
        "xtick.color": theme.text,
        "ytick.color": theme.text,
        "grid.color": theme.faint,
        "grid.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 10,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "xtick.minor.width": 0,
        "ytick.minor.width": 0,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "font.family": "DejaVu Sans",  # comes with matplotlib: no machine has another
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "sparrow_kernels",
    }
    with pyplot.rc_context(settings):
        yield


def save(figure: Figure, stem: Path, theme: Theme) -> list[Path]:
    """Write `<stem>-<theme>.png` and `.svg`, without a date or a version in them."""
    written = []
    for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        path = stem.with_name(f"{stem.name}-{theme.name}.{kind}")
        figure.savefig(path, metadata=metadata, dpi=160)
        written.append(path)
    pyplot.close(figure)
    return written


def way_colors(ways: list[str], theme: Theme) -> dict[str, str]:
    """A colour for each peer, by the order of their names, so that plots agree."""
    return {
        way: theme.others[place % len(theme.others)] for place, way in enumerate(sorted(set(ways)))
    }


DOUBTED = "not to be believed"


def hollow(theme: Theme, color: str) -> dict[str, Any]:
    """A marker's looks where its row is doubted (`Row.doubt`)."""
    return {"markerfacecolor": theme.background, "markeredgecolor": color, "markeredgewidth": 1.4}


def doubted_entry(theme: Theme) -> Line2D:
    """The legend's word for it."""
    looks = hollow(theme, theme.text)
    return Line2D([], [], linestyle="", marker="o", markersize=6, label=DOUBTED, **looks)


def plain_ticks(axes: Axes, *, x: bool = False, y: bool = False) -> None:
    """`4k`, not `4 * 10^3`, on a logarithmic axis, and ticks enough to read it by."""
    for wanted, axis in ((x, axes.xaxis), (y, axes.yaxis)):
        if wanted:
            low, high = sorted(axis.get_view_interval())
            steps = (1, 2, 5) if high < 60 * low else (1,)
            axis.set_major_locator(LogLocator(subs=steps))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(lambda value, place: quantity(value).replace(" ", ""))


def quantity(value: float, unit: str = "") -> str:
    """A number as one says it: 0.05, 3, 25 k, 1.5 M, 3 TB/s."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}".strip()


def short_case(parameters: dict[str, str], leave_out: tuple[str, ...] = ()) -> str:
    """A case's shape for a label: `prefix 4096, T 30`; batch 1 goes without saying."""
    parts = [
        f"{word} {int(value):,}" if value.isdecimal() else value
        for word, value in parameters.items()
        if word not in leave_out and (word, value) != ("B", "1")
    ]
    return ", ".join(parts)
