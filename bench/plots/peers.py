"""Each peer's time over our best, case by case: one panel an op, one figure a family of ops.

A bar goes from 1 to the fastest peer of a case, to the right where we are faster, and its ratio
stands beside it. Dots are peers, hollow where one of the two times is doubted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.matches import Match, matches
from bench.plots.style import (
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

_USUAL = ("model", "dtype", "inputs")
_CASE_HEIGHT = 0.27
_PANEL_HEIGHT = 0.75


def figure(rows: Sequence[Row], theme: Theme) -> Figure | None:
    """Of the cases that have a peer, in rows of one family."""
    by_op: dict[str, list[Match]] = {}
    for match in matches(rows):
        if match.peers:
            by_op.setdefault(match.op, []).append(match)
    if not by_op:
        return None
    heights = [_PANEL_HEIGHT + _CASE_HEIGHT * len(found) for found in by_op.values()]
    made, axes = pyplot.subplots(
        len(by_op), 1, figsize=(WIDTH, sum(heights) + 0.7), height_ratios=heights, squeeze=False
    )
    ways = [row.backend for found in by_op.values() for match in found for row in match.peers]
    colors = way_colors(ways, theme)
    markers = {way: MARKERS[place % len(MARKERS)] for place, way in enumerate(colors)}
    for place, (op, found) in enumerate(by_op.items()):
        _panel(axes[place][0], op, found, theme, colors, markers)
    ratios = [
        match.ratio(peer) for found in by_op.values() for match in found for peer in match.peers
    ]
    for each in axes.flat:
        each.set_xlim(min(0.5, min(ratios) / 1.3), max(2, max(ratios) * 1.3))
        plain_ticks(each, x=True)
    axes[-1][0].set_xlabel("peer's time / our time (right of 1: we are faster)")
    handles = [
        Line2D([], [], linestyle="", marker=markers[way], color=colors[way], label=way)
        for way in colors
    ]
    pairs = ((match, peer) for found in by_op.values() for match in found for peer in match.peers)
    is_doubted = any(match.ours.doubt or peer.doubt for match, peer in pairs)
    if is_doubted:
        handles.append(doubted_entry(theme))
    columns = 3 if is_doubted else 4  # more would not fit beside its words
    made.legend(handles=handles, loc="outside upper left", ncols=columns, handletextpad=0.1)
    return made


def _panel(
    axes: Axes,
    op: str,
    found: list[Match],
    theme: Theme,
    colors: dict[str, str],
    markers: dict[str, str],
) -> None:
    for place, match in enumerate(found):
        best = match.ratio(match.peers[0])
        axes.barh(
            place, best - 1, left=1, height=0.62, linewidth=0,
            color=theme.ours if best >= 1 else theme.others[0], alpha=0.75,
        )  # fmt: skip
        text = f"{best:.2f} x" if best < 100 else f"{best:,.0f} x"
        axes.annotate(
            text, (1, place), (5, 0), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
        for peer in match.peers:
            color = colors[peer.backend]
            looks: dict[str, Any] = {"markeredgecolor": theme.background}
            if match.ours.doubt or peer.doubt:
                looks = hollow(theme, color)
            axes.plot(
                match.ratio(peer), place, marker=markers[peer.backend], markersize=6.5,
                color=color, linestyle="", **looks,
            )  # fmt: skip
    axes.axvline(1, color=theme.text, linewidth=1.4)
    axes.set_xscale("log")
    axes.set_yticks(range(len(found)), [_label(match, found) for match in found])
    axes.set_ylim(len(found) - 0.4, -0.6)  # the first case on top
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_title(", ".join([op, *_usual(found).values()]))


def _usual(found: list[Match]) -> dict[str, str]:
    """What most cases of a panel are, so that only the others have to say it."""
    named = [_described(match) for match in found]
    return {
        word: Counter(each[word] for each in named if word in each).most_common(1)[0][0]
        for word in _USUAL
        if any(word in each for each in named)
    }


def _described(match: Match) -> dict[str, str]:
    return match.parameters | {"dtype": match.dtype, "inputs": match.inputs}


def _label(match: Match, found: list[Match]) -> str:
    """The case, without what all cases of the panel share and without what is usual."""
    usual = _usual(found)
    described = _described(match)
    left_out = tuple(
        word
        for word, value in described.items()
        if usual.get(word) == value
        or (len(found) > 1 and all(_described(each).get(word) == value for each in found))
    )
    return short_case(described, left_out) or short_case(match.parameters)
