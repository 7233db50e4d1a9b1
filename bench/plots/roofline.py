"""What the device does against what it could: arithmetic over bytes, and bytes alone.

Left, ops that compute: operations a second over operations a byte, under the two lines that the
measured rates draw. Right, ops that only move bytes, under the bandwidth. Each point is the best of
our backends at one case; the rates are those that the rows' own floors imply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.matches import Match, matches, median
from bench.plots.style import MARKERS, WIDTH, Theme, plain_ticks, quantity
from bench.rows import Row

_DTYPES = ("bfloat16", "float16", "float32")


def figure(rows: Sequence[Row], theme: Theme) -> Figure | None:
    found = matches(rows)
    bandwidth = _rate(rows, "bytes")
    if not found or bandwidth is None:
        return None
    computing = [match for match in found if match.ours.flops]
    moving = [match for match in found if not match.ours.flops]
    panels = [panel for panel in (computing, moving) if panel]
    made, axes = pyplot.subplots(1, len(panels), figsize=(WIDTH, 5.6), squeeze=False)
    for place, panel in enumerate(panels):
        if panel is computing:
            _compute(axes[0][place], panel, rows, bandwidth, theme)
        else:
            _move(axes[0][place], panel, bandwidth, theme)
        axes[0][place].legend(
            loc="upper center", bbox_to_anchor=(0.45, -0.14), ncols=2, fontsize=8,
            handletextpad=0.3, columnspacing=0.8,
        )  # fmt: skip
    return made


def _compute(
    axes: Axes, found: list[Match], rows: Sequence[Row], bandwidth: float, theme: Theme
) -> None:
    axes.set(xscale="log", yscale="log", title="Ops that compute")
    axes.set(xlabel="operations a byte", ylabel="operations a second")
    intensities = [match.ours.flops / match.ours.bytes for match in found]
    rates = {dtype: _rate(rows, "flops", dtype) for dtype in _DTYPES}
    roofs = {dtype: rate for dtype, rate in rates.items() if rate is not None}
    knees = [rate / bandwidth for rate in roofs.values()]
    left, right = min(intensities) / 3, 2 * max(intensities + knees)
    meet = max(knees, default=right)
    axes.plot([left, meet], [left * bandwidth, meet * bandwidth], color=theme.text, lw=1.4)
    # As high as the line is where the words end.
    _say(axes, quantity(bandwidth, "B/s"), (left, 5 * left * bandwidth), (0, 2))
    for dtype, rate in roofs.items():
        axes.plot([rate / bandwidth, right], [rate, rate], color=theme.text, lw=1.4)
        _say(axes, f"{dtype}\n{quantity(rate, 'FLOP/s')}", (right, rate), (0, 4), "right")
    _scatter(axes, found, theme, lambda row: (row.flops / row.bytes, row.flops))


def _move(axes: Axes, found: list[Match], bandwidth: float, theme: Theme) -> None:
    axes.set(xscale="log", yscale="log", title="Ops that move bytes")
    axes.set(xlabel="bytes a call", ylabel="bytes a second")
    axes.axhline(bandwidth, color=theme.text, lw=1.4)
    left = min(match.ours.bytes for match in found)
    _say(axes, quantity(bandwidth, "B/s"), (left, bandwidth), (-4, 4))
    _scatter(axes, found, theme, lambda row: (row.bytes, row.bytes))


def _scatter(axes: Axes, found: list[Match], theme: Theme, place: Any) -> None:
    """`place(row)`: where on the x axis, and what the row does in its time."""
    colors = (theme.ours, *theme.others)
    by_name: dict[str, list[tuple[float, float]]] = {}
    for match in found:
        x, work = place(match.ours)
        by_name.setdefault(_name(match), []).append((x, 1e6 * work / median(match.ours)))
    for turn, (name, points) in enumerate(by_name.items()):
        axes.plot(
            *zip(*points, strict=True), linestyle="", label=name, markersize=6.5, alpha=0.9,
            marker=MARKERS[turn % len(MARKERS)], color=colors[turn % len(colors)],
            markeredgecolor=theme.background, markeredgewidth=0.6,
        )  # fmt: skip
    low, high = axes.get_ylim()
    axes.set_ylim(low, 3 * high)  # room for the words over a line
    plain_ticks(axes, x=True, y=True)


def _name(match: Match) -> str:
    return (
        f"{match.op}, anchors" if "anchors=" in match.case and "visual=" in match.case else match.op
    )


def _say(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[int, int], side: str = "left"
) -> None:
    axes.annotate(text, at, offset, textcoords="offset points", fontsize=9, ha=side, va="bottom")


def _rate(rows: Sequence[Row], bound: str, dtype: str | None = None) -> float | None:
    """What a second can do of the work that bounds a floor, by the rows it bounds."""
    rates = [
        1e6 * getattr(row, bound) / row.floor_us
        for row in rows
        if row.bound == bound and row.floor_us > 0 and dtype in (None, row.dtype)
    ]
    return max(rates, default=None)
