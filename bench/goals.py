"""The speed goals, as data, and which of them a result file meets.

    python -m bench.goals bench/results/bench-*.csv

Every goal is for a GPU, in bfloat16 where the op leaves the choice; it names the cases it needs and
is met, missed (by which row, with its numbers) or not measured. Ends with 1 if one is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench import predicted, rows
from bench.case import Case
from bench.matches import Match, matches
from bench.rules import (
    AtMost,
    EitherWay,
    FasterThan,
    Flat,
    NeverSlower,
    OfFloor,
    Outcome,
    Rule,
    together,
)
from bench.table import print_table

MODEL = "qwen2.5-vl-7b"
USUAL_DEVICE = "H100"
"""What is predicted is shown for it where nothing was measured on another."""
_SDPA, _FLEX, _FLASHINFER = "sdpa", "flex_attention", "flashinfer"
_CASCADE = "cascade"

Shape = Mapping[str, object]


class Goal(NamedTuple):
    """A rule about some cases of one op."""

    name: str
    op: str
    rule: Rule
    shapes: Sequence[Shape]
    """The words of each case, all of them."""
    dtype: str = "bfloat16"


def _commit(**changes: object) -> Shape:
    return {"model": MODEL, "prefix": 512, "T": 60, "B": 1} | changes


def _verify(prefix: int, nodes: int, batch: int = 1) -> Shape:
    return {"model": MODEL, "prefix": prefix, "T": nodes, "B": batch}


def _draft(visual: int) -> Shape:
    shape = {"model": MODEL, "visual": visual, "anchors": 300, "window": 128}
    return shape | {"T": 8, "B": 1}


def _training(layout: str) -> Shape:
    shape = {"model": MODEL, "S": 16_384, "window": 256, "percent": 5}
    return shape | {"layout": layout, "passes": "both"}


_RESIDUAL = {"vocab": 152_064, "levels": 4, "refused": 3, "B": 1}
_CELLS = [
    _verify(prefix, nodes, batch)
    for batch in (1, 8)
    for prefix in (512, 4_096, 25_600, 131_072)
    for nodes in (1, 8, 30, 60)
]
_OTHERS = ("SDPA, FlexAttention, FlashInfer", (_SDPA, _FLEX, _FLASHINFER))

GOALS: tuple[Goal, ...] = (
    *(
        Goal(f"{op}, T = 64, B = {batch}", op, AtMost(4), [{"T": 64, "B": batch}], dtype)
        for op, dtype in (("build_tree", "int32"), ("accept_tree", "int64"))
        for batch in (1, 64)
    ),
    Goal("commit_tree_, 28 layers, T = 60", "commit_tree_", AtMost(6), [_commit()]),
    Goal(
        "commit_tree_ against one slab", "commit_tree_",
        FasterThan(3, "torch, one slab", ("torch, one slab",)), [_commit()],
    ),
    Goal(
        "commit_tree_ against layer by layer", "commit_tree_",
        FasterThan(10, "torch, layer by layer", ("torch, layer by layer",)), [_commit()],
    ),
    Goal(
        "gather_hidden, 1,024 rows x 3 layers x 3,584", "gather_hidden", OfFloor(80),
        [{"R": 1024, "layers": 3, "hidden": 3584}],
    ),
    Goal(
        "topk_logprobs, 8 x 152k, k = 8", "topk_logprobs",
        together(AtMost(12), FasterThan(4, "log_softmax + topk", ("log_softmax + topk",))),
        [{"R": 8, "vocab": 152_064, "k": 8}],
    ),
    Goal(
        "accept_tree_residual, four levels, three refusals each", "accept_tree_residual",
        AtMost(15), [_RESIDUAL], "float32",
    ),
    Goal("rotate_append_, T = 30", "rotate_append_", AtMost(4), [_verify(4_096, 30)]),
    *(
        Goal(
            f"tree_attention, prefix 25,600, T = {nodes}", "tree_attention",
            OfFloor(percent, stretch), [_verify(25_600, nodes)],
        )
        for nodes, percent, stretch in ((8, 70, 78), (30, 45, 58), (60, 45, 60))
    ),
    Goal(
        "tree_attention against the best peer, prefix x T x B", "tree_attention",
        NeverSlower(0.95, 1.3, *_OTHERS, without=_CASCADE), _CELLS,
    ),
    Goal(
        "tree_attention against FlashInfer's cascade", "tree_attention",
        NeverSlower(0.95, 1.3, "FlashInfer, cascade", (_FLASHINFER,), only=_CASCADE), _CELLS,
    ),
    Goal(
        "draft attention, a clip of 25,000 against one of 500", "tree_attention",
        Flat(percent=5, microseconds=0.3), [_draft(500), _draft(25_000)],
    ),
    Goal(
        "draft attention at 25,000 against SDPA with a mask", "tree_attention",
        FasterThan(10, "SDPA", (_SDPA,)), [_draft(25_000)],
    ),
    Goal(
        "draft attention at 25,000 against FlexAttention", "tree_attention",
        FasterThan(5, "FlexAttention", (_FLEX,)), [_draft(25_000)],
    ),
    Goal(
        "draft attention at 25,000 against ours over the whole cache", "tree_attention",
        Flat(times=1 / 3), [_verify(25_300, 8), _draft(25_000)],
    ),
    *(
        Goal(
            f"anchored_window_attention, forward and backward, {layout}",
            "anchored_window_attention",
            EitherWay(FasterThan(times, "FlexAttention", (_FLEX,)), OfFloor(100 / 1.3)),
            [_training(layout)],
        )
        for layout, times in (("scattered", 5), ("clustered", 2))
    ),
)  # fmt: skip


def judged(found: Sequence[rows.Row], goals: Sequence[Goal] = GOALS) -> list[tuple[Goal, Outcome]]:
    """Each goal with what the rows of a GPU say to it."""
    on_gpu = matches(row for row in found if row.cuda)
    return [(goal, goal.rule(_cells(goal, on_gpu))) for goal in goals]


def value(case: Case) -> int:
    """How much a case is worth measuring: 0 for what a goal of its own needs, 1 for what is one of
    the many cells of another, else 2."""
    return _values().get((case.op, str(case.dtype), frozenset(case.name.split())), 2)


@cache
def _values() -> dict[tuple[str, str, frozenset[str]], int]:
    found: dict[tuple[str, str, frozenset[str]], int] = {}
    for goal in GOALS:
        for shape in goal.shapes:
            words = frozenset(f"{word}={shape[word]}" for word in shape)
            case = (goal.op, f"torch.{goal.dtype}", words)
            found[case] = min(found.get(case, 2), int(len(goal.shapes) > _FEW))
    return found


_FEW = 2


def forecast(goal: Goal, device: str) -> str:
    """What was predicted of the cases of a goal that has few, by arithmetic, on a device."""
    if len(goal.shapes) > _FEW:
        return "-"
    texts = []
    for shape in goal.shapes:
        found = predicted.of_case(goal.op, (f"{word}={shape[word]}" for word in shape), device)
        if found is None:
            return "-"
        share = f" ({found.percent_of_floor:.0f} %)" if isinstance(goal.rule, OfFloor) else ""
        texts.append(f"{found.text} us{share}")
    return ", ".join(texts)


def _cells(goal: Goal, found: Sequence[Match]) -> list[Match | None]:
    """Its cases, all with cold inputs or all with hot ones where they were measured so, each cold
    if it can be where not."""
    of_state = {
        state: [_match(goal, shape, [each for each in found if each.inputs == state])
                for shape in goal.shapes]
        for state in ("cold", "hot")
    }  # fmt: skip
    for cells in of_state.values():
        if None not in cells:
            return cells
    return [cold or hot for cold, hot in zip(*of_state.values(), strict=True)]


def _match(goal: Goal, shape: Shape, found: Sequence[Match]) -> Match | None:
    """The case of that shape."""
    words = {word: str(value) for word, value in shape.items()}
    fitting = (
        match
        for match in found
        if (match.op, match.dtype) == (goal.op, goal.dtype) and match.parameters == words
    )
    return next(fitting, None)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.goals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, nargs="+", help="CSV files of bench.run")
    arguments = parser.parse_args(argv)
    try:
        found = [row for path in arguments.results for row in rows.read(path)]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    outcomes = judged(found)
    devices = (predicted.known(row.device) for row in found if row.cuda)
    device = next((name for name in devices if name is not None), USUAL_DEVICE)
    print_table([
        {
            "goal": goal.name, "asks": goal.rule.asks, "is": outcome.word,
            "measured": outcome.text, f"predicted, {device}": forecast(goal, device),
        }
        for goal, outcome in outcomes
    ])  # fmt: skip
    for goal, outcome in outcomes:
        for row in outcome.because:
            print(f"{goal.name}: {' | '.join(row.key)}: {row.us_p50:.2f} us")
    return int(any(outcome.is_met is False for _, outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
