"""Time over the length of the clip, or of the prefix: ours and every peer, one panel a shape.

Lines are medians, shades go from the 20th to the 80th percentile; both axes are logarithmic.
Points are hollow where a time is doubted.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.matches import Match, matches, median
from bench.plots.style import (
    DOUBTED,
    MARKERS,
    WIDTH,
    Theme,
    doubted_entry,
    hollow,
    plain_ticks,
    short_case,
    way_colors,
)
from bench.rows import Row

_WORDS = {"visual": "visual tokens", "prefix": "committed slots"}
OURS = "sparrow_kernels"


def figure(rows: Sequence[Row], word: str, theme: Theme) -> Figure | None:
    """Of the shapes that were measured at two lengths or more; `word` is visual or prefix."""
    panels: dict[str, list[Match]] = {}
    for match in matches(rows):
        if word in match.parameters:
            shape = short_case(match.parameters, (word,))
            panels.setdefault(f"{match.op}\n{shape}, {match.dtype}", []).append(match)
    panels = {title: found for title, found in panels.items() if len(_lengths(found, word)) > 1}
    if not panels:
        return None
    columns = len(panels) if len(panels) < 4 else 2 if len(panels) == 4 else 3
    lines = -(-len(panels) // columns)
    made, axes = pyplot.subplots(
        lines, columns, figsize=(WIDTH, 0.8 + 3.1 * lines), squeeze=False, sharey=True
    )
    ways = [row.backend for found in panels.values() for match in found for row in match.peers]
    colors = way_colors(ways, theme)
    for place, (title, found) in enumerate(panels.items()):
        at = axes[place // columns][place % columns]
        _panel(at, found, word, theme, colors)
        at.set_title(title, fontsize=10, fontweight="normal")
        if place % columns == 0:
            at.set_ylabel("µs (logarithmic)")
    for spare in axes.flat[len(panels) :]:
        spare.set_visible(False)
    entries: dict[str, Artist] = {}
    for each in axes.flat:
        handles, labels = each.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    order = sorted(entries, key=lambda way: (way != OURS, way))
    drawn = (
        row for found in panels.values() for match in found for row in (match.ours, *match.peers)
    )
    if any(row.doubt for row in drawn):
        entries[DOUBTED] = doubted_entry(theme)
        order.append(DOUBTED)
    made.legend([entries[way] for way in order], order, loc="outside upper left", ncols=4)
    machines = dict.fromkeys(match.ours.device for found in panels.values() for match in found)
    made.supxlabel(f"median, p20–p80 shaded; {'; '.join(machines)}", fontsize=8)
    return made


def _panel(axes: Axes, found: list[Match], word: str, theme: Theme, colors: dict[str, str]) -> None:
    by_way: dict[str, list[tuple[int, float, float, float]]] = {}
    doubted: dict[str, list[tuple[int, float]]] = {}
    for match in sorted(found, key=lambda match: int(match.parameters[word])):
        length = int(match.parameters[word])
        for row in (match.ours, *match.peers):
            middle = median(row)
            low, high = row.us_p20 or middle, row.us_p80 or middle
            way = OURS if row is match.ours else row.backend
            by_way.setdefault(way, []).append((length, middle, low, high))
            if row.doubt:
                doubted.setdefault(way, []).append((length, middle))
    for way, points in by_way.items():
        is_ours = way == OURS
        place = list(colors).index(way) + 1 if not is_ours else 0
        lengths, middles, lows, highs = zip(*points, strict=True)
        color = theme.ours if is_ours else colors[way]
        marker, layer = MARKERS[place % len(MARKERS)], 3 if is_ours else 2
        axes.fill_between(lengths, lows, highs, color=color, alpha=0.2, linewidth=0)
        axes.plot(
            lengths, middles, label=way, marker=marker, markersize=6, color=color,
            linewidth=2.6 if is_ours else 1.4, zorder=layer,
        )  # fmt: skip
        for point in doubted.get(way, []):  # over the whole one
            axes.plot(*point, marker=marker, markersize=6, zorder=layer, **hollow(theme, color))
    axes.set(xscale="log", yscale="log", xlabel=f"{_WORDS[word]} (logarithmic)")
    ticks: list[int] = []
    for length in _lengths(found, word):
        if not ticks or length > 1.5 * ticks[-1]:  # closer, and the words would overlap
            ticks.append(length)
    axes.set_xticks(ticks, [f"{length:,}" for length in ticks])
    axes.minorticks_off()
    plain_ticks(axes, y=True)


def _lengths(found: list[Match], word: str) -> list[int]:
    return sorted({int(match.parameters[word]) for match in found})
