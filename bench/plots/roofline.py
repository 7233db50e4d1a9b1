"""What the device does against what it could: arithmetic over bytes, and bytes alone.

Above, ops that compute: operations a second over operations a byte, under the two lines that the
measured rates draw. Below, ops that only move bytes, a panel a family, under the bandwidth. Each
point is the best of our backends at one case. A stem leads from it to what its own floor allows,
which is the exponential rate's where that is what bounds it. Rates are those that the rows' own
floors imply. Points are hollow where a time is doubted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from bench import registry
from bench.matches import Match, matches, median
from bench.plots.style import MARKERS, WIDTH, Theme, doubted_entry, hollow, plain_ticks, quantity
from bench.rows import Row

_DTYPES = ("bfloat16", "float16", "float32")
_COLUMNS = 3

Place = Callable[[Row], tuple[float, float]]
"""Where a row stands on the x axis, and how much it does in its time."""


def figure(rows: Sequence[Row], theme: Theme) -> Figure | None:
    found = matches(rows)
    bandwidth = _rate(rows, "bytes")
    if not found or bandwidth is None:
        return None
    computing = [match for match in found if match.ours.flops]
    moving = _by_family([match for match in found if not match.ours.flops])
    lines = -(-len(moving) // _COLUMNS)
    heights = [height for height in (4.2 * bool(computing), 2.9 * lines) if height]
    made = pyplot.figure(figsize=(WIDTH, sum(heights)))
    parts = list(made.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if computing:
        _compute(parts.pop(0).subplots(), computing, rows, bandwidth, theme)
    if moving:
        _move(parts.pop(0), moving, bandwidth, theme)
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
    _say(axes, quantity(bandwidth, "B/s"), (left, 3 * left * bandwidth), (0, 2))
    for dtype, rate in roofs.items():
        axes.plot([rate / bandwidth, right], [rate, rate], color=theme.text, lw=1.4)
        _say(axes, f"{dtype}, {quantity(rate, 'FLOP/s')}", (right, rate), (0, 4), "right")
    _scatter(axes, found, theme, lambda row: (row.flops / row.bytes, row.flops))
    _leave_room(axes)
    axes.legend(handles=_entries(axes, found, theme), loc="center left", bbox_to_anchor=(1, 0.5))


def _move(
    figure: SubFigure, families: dict[str, list[Match]], bandwidth: float, theme: Theme
) -> None:
    figure.suptitle("Ops that move bytes", x=0.01, ha="left", fontsize=11, fontweight="bold")
    lines = -(-len(families) // _COLUMNS)
    axes = figure.subplots(lines, _COLUMNS, squeeze=False, sharex=True, sharey=True)
    for at, (family, found) in zip(axes.flat, families.items(), strict=False):
        at.set(xscale="log", yscale="log")
        at.set_title(family, fontsize=10, fontweight="normal")
        at.axhline(bandwidth, color=theme.text, lw=1.4)
        _scatter(at, found, theme, lambda row: (row.bytes, row.bytes))
        at.legend(
            handles=_entries(at, found, theme),
            loc="lower right",
            fontsize=7,
            handletextpad=0.2,
            borderaxespad=0.2,
        )
    _leave_room(axes[0][0])  # of all, which share it
    least = min(match.ours.bytes for found in families.values() for match in found)
    _say(axes[0][0], quantity(bandwidth, "B/s"), (least, bandwidth), (-4, 4))
    for at in axes[:, 0]:
        at.set_ylabel("bytes a second")
    for place, at in enumerate(axes.flat):
        if place >= len(families):
            at.set_visible(False)
        elif place + _COLUMNS >= len(families):
            at.set_xlabel("bytes a call")
            at.tick_params(labelbottom=True)


def _by_family(found: list[Match]) -> dict[str, list[Match]]:
    """Matches by the file of cases that their op is in."""
    homes = {op: kinds[0].__module__.rsplit(".", 1)[1] for op, kinds in registry.kinds().items()}
    made: dict[str, list[Match]] = {}
    for match in found:
        made.setdefault(homes.get(match.op, "other"), []).append(match)
    return made


def _scatter(axes: Axes, found: list[Match], theme: Theme, place: Place) -> None:
    colors = (theme.ours, *theme.others)
    by_name: dict[str, list[Match]] = {}
    for match in found:
        by_name.setdefault(_name(match), []).append(match)
    for turn, (name, of_name) in enumerate(by_name.items()):
        color = colors[turn % len(colors)]
        points = []
        for match in of_name:
            x, work = place(match.ours)
            y, most = 1e6 * work / median(match.ours), 1e6 * work / match.ours.floor_us
            points.append((x, y))
            if most > y:
                axes.plot([x, x], [y, most], color=color, lw=0.8, alpha=0.5)
                axes.plot(x, most, marker="_", markersize=7, color=color)
        axes.plot(
            *zip(*points, strict=True), linestyle="", label=name, markersize=6.5, alpha=0.9,
            marker=MARKERS[turn % len(MARKERS)], color=color,
            markeredgecolor=theme.background, markeredgewidth=0.6,
        )  # fmt: skip
        for match, point in zip(of_name, points, strict=True):
            if match.ours.doubt:  # over the whole one
                marker, looks = MARKERS[turn % len(MARKERS)], hollow(theme, color)
                axes.plot(*point, linestyle="", markersize=6.5, marker=marker, **looks)
    plain_ticks(axes, x=True, y=True)


def _entries(axes: Axes, found: list[Match], theme: Theme) -> list[Artist]:
    """Of a legend."""
    handles: list[Artist] = axes.get_legend_handles_labels()[0]
    return [*handles, doubted_entry(theme)] if any(each.ours.doubt for each in found) else handles


def _leave_room(axes: Axes) -> None:
    """For the words over a line."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, 3 * high)
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
