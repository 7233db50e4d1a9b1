"""What plots say of rows that are not to be believed: drawn hollow, with a word in the legend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from bench_cases import row

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from bench.plots import length, peers, roofline, style
from bench.rows import Row

Plot = Callable[[Sequence[Row], style.Theme], Figure | None]


def found(**doubt: float) -> list[Row]:
    """Two lengths of ours and of a peer; the doubt is of ours at the first."""
    return [
        row(op="tree_attention", case=f"prefix={slots} T=8 B=1", ours=name == "native",
            backend=name, us=us, bytes=100 * slots,
            **(doubt if (slots, name) == (500, "native") else {}))
        for slots in (500, 4000)
        for name, us in (("native", 10.0), ("sdpa", 30.0))
    ]  # fmt: skip


def hollow_points(figure: Figure, theme: style.Theme) -> list[int]:
    """How many are filled with the background, an entry each of the axes that have some."""
    counts = (
        sum(
            line.get_marker() in style.MARKERS and to_hex(line.get_markerfacecolor()) == inside
            for line in axes.lines
        )
        for axes in figure.axes
        for inside in [theme.background]
    )
    return [count for count in counts if count]


def words(figure: Figure) -> Iterator[str]:
    for legend in figure.findobj(Legend):
        yield from (text.get_text() for text in legend.get_texts())


@pytest.mark.parametrize("theme", style.THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize(
    "plot",
    [roofline.figure, peers.figure, lambda rows, theme: length.figure(rows, "prefix", theme)],
    ids=["roofline", "peers", "length"],
)
def test_a_doubted_row_is_hollow(plot: Plot, theme: style.Theme) -> None:
    with style.themed(theme):
        for doubt in ({"percent_of_floor": 118.0}, {"others_percent": 40.0}):
            figure = plot(found(**doubt), theme)
            assert figure is not None
            assert hollow_points(figure, theme) == [1]
            assert list(words(figure)).count(style.DOUBTED) == 1
        figure = plot(found(), theme)
        assert figure is not None
        assert hollow_points(figure, theme) == [] and style.DOUBTED not in words(figure)
