"""Plots of result files, light and dark, as PNG and SVG. Measures nothing.

    python -m bench.plot bench/results/bench-cpu.csv bench/results/bench-cpu-*.csv

`roofline`: what the ops do against the device's rates. `peers-<family>`: each peer's time over
ours. `length-visual`, `length-prefix`: time over the length of the clip or of the prefix. The same
rows give the same files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bench import options, registry, rows
from bench.rows import Row

if TYPE_CHECKING:  # matplotlib may be missing, and that is then said in a line
    from matplotlib.figure import Figure

    from bench.plots.style import Theme

Plot: TypeAlias = "Callable[[Theme], Figure | None]"


def plots(found: Sequence[Row]) -> Iterator[tuple[str, str, Plot]]:
    """Each plot there is: its name, what it needs, and how it is made."""
    from bench.plots import length, peers, roofline

    yield "roofline", "a measured case", partial(roofline.figure, found)
    for family, rows_of_it in _by_family(found).items():
        needs = f"a measured case of {family} with a peer"
        yield f"peers-{family}", needs, partial(peers.figure, rows_of_it)
    for word in ("visual", "prefix"):
        needs = f"a shape measured at two values of {word}="
        yield f"length-{word}", needs, partial(length.figure, found, word)


def drawn(found: Sequence[Row], stem: Path) -> list[Path]:
    """Write every plot that has something to show to `<stem>-<plot>-<theme>.png` and `.svg`."""
    from bench.plots import style

    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for name, needs, plot in plots(found):
        for theme in style.THEMES:
            with style.themed(theme):
                figure = plot(theme)
                if figure is None:
                    print(f"no {name}: it needs {needs}")
                    break
                written += style.save(figure, stem.with_name(f"{stem.name}-{name}"), theme)
    return written


def _by_family(found: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the file of cases that their op's first case is in."""
    homes = {op: kinds[0].__module__.rsplit(".", 1)[1] for op, kinds in registry.kinds().items()}
    made: dict[str, list[Row]] = {}
    for row in found:
        family = homes.get(row.op, "other")
        if "visual" in row.parameters:
            family = "draft"
        made.setdefault(family, []).append(row)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "results", type=Path, nargs="+", help="CSV files of bench.run; plots have the first's name"
    )
    parser.add_argument("--out", type=Path, help="folder, by default plots beside the first file")
    arguments = parser.parse_args(argv)
    if why := options.no_plots():
        parser.exit(1, f"{parser.prog}: no plots: {why}\n")
    try:
        found = [row for path in arguments.results for row in rows.read(path)]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    devices = dict.fromkeys(row.device for row in found)
    if len(devices) > 1:  # one plot has the rates of one, and case beside case
        parser.error(f"results: must be of one device, got {'; '.join(devices)}")
    first = arguments.results[0]
    try:
        written = drawn(found, (arguments.out or first.parent / "plots") / first.stem)
    except OSError as error:
        parser.error(f"--out: {error}")
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
