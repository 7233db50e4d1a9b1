"""From clips to means: a CSV of every draft and length, a table with errors, and a figure."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.ablation.measuring import lines_of
from bench.ablation.systems import SYSTEMS
from sparrow_kernels.training.replay import mean_of

if TYPE_CHECKING:  # matplotlib may be missing
    from matplotlib.figure import Figure

    from bench.plots.style import Theme

COLUMNS = ("system", "vata", "seed", "visual_tokens", "clips", "checked", "mean_emitted")


class Cell(NamedTuple):
    """A draft at a length: the mean over seeds, and their standard deviation."""

    mean: float
    deviation: float


def write_csv(clips: Path, out: Path) -> None:
    """A row for each system, sight, seed and length: tokens a call over all its clips."""
    totals: dict[tuple[Any, ...], list[list[int]]] = defaultdict(list)
    checked: dict[int, int] = defaultdict(int)
    for line in lines_of(clips):
        checked[line["visual_tokens_asked"]] += line["checked"] > 0
        for each in line["emitted"]:
            key = each["system"], each["vata"], each["seed"], line["visual_tokens_asked"]
            totals[key].append(each["histogram"])
    order = {system.name: number for number, system in enumerate(SYSTEMS)}
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for key in sorted(totals, key=lambda key: (order[key[0]], *key[1:])):
            found = totals[key]
            together = [sum(column) for column in zip(*found, strict=True)]
            of_length = checked[key[3]] if key[2] == 0 else 0
            writer.writerow([*key, len(found), of_length, f"{mean_of(together):.4f}"])


def cells(path: Path) -> dict[tuple[str, bool], dict[int, Cell]]:
    """By system and VATA, then by visual tokens."""
    found: dict[tuple[str, bool], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            of = found[row["system"], row["vata"] == "True"]
            of[int(row["visual_tokens"])].append(float(row["mean_emitted"]))
    return {
        key: {length: _cell(values) for length, values in by_length.items()}
        for key, by_length in found.items()
    }


def _cell(values: Sequence[float]) -> Cell:
    return Cell(mean(values), stdev(values) if len(values) > 1 else 0.0)


def table(path: Path) -> str:
    """Markdown: a row a system and sight, a column a length."""
    found = cells(path)
    lengths = sorted({length for by_length in found.values() for length in by_length})
    names = [f"{length / 1000:g}k" if length >= 1000 else str(length) for length in lengths]
    lines = [f"| draft | VATA | {' | '.join(names)} |", "|---|---|" + "---:|" * len(names)]
    for (system, vata), by_length in found.items():
        values = [f"{by_length[n].mean:.2f} ± {by_length[n].deviation:.2f}" for n in lengths]
        lines.append(f"| {system} | {'yes' if vata else '–'} | {' | '.join(values)} |")
    return "\n".join(lines)


def draw(path: Path, out: Path) -> list[Path]:
    """Tokens a call by visual length, with the clip in sight dashed and out of it whole, light and
    dark: `<out>-<theme>.svg` and `.png`, which are returned."""
    from bench.plots import style

    written = []
    for theme in style.THEMES:
        with style.themed(theme):
            written += style.save(_figure(path, theme), out, theme)
    return written


def _figure(path: Path, theme: Theme) -> Figure:
    from matplotlib import pyplot

    from bench.plots.style import WIDTH, plain_ticks

    figure, axes = pyplot.subplots(figsize=(WIDTH, 4.7))
    palette = (theme.ours, *theme.others)
    colors = {system.name: color for system, color in zip(SYSTEMS, palette, strict=True)}
    for (system, vata), by_length in cells(path).items():
        axes.errorbar(
            list(by_length),
            [cell.mean for cell in by_length.values()],
            [cell.deviation for cell in by_length.values()],
            color=colors[system],
            linestyle="-" if vata else "--",
            label=system if vata else None,
            capsize=2,
        )
    axes.set(xscale="log", xlabel="visual tokens", ylabel="tokens a target call")
    axes.set_title("whole: the clip out of the draft's sight; dashed: in it")
    plain_ticks(axes, x=True)
    axes.legend()
    return figure
