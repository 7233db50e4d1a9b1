"""What speculation gains at each length of clip: a row a clip, and one of all clips of a length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from statistics import fmean, median
from typing import Any, NamedTuple

from sparrow_kernels.decoding.stats import PHASES, DecodeStats
from sparrow_kernels.measuring.clip_plan import Case, Prompt
from sparrow_kernels.measuring.comparison import BASELINES, Comparison, compare
from sparrow_kernels.measuring.evaluation import mean_emitted, summed
from sparrow_kernels.models.decoder import SparrowDecoder

ALL = "all"
"""The `clip` of a row about every clip of a length."""

Row = dict[str, Any]
_PHASES = (*PHASES, "decode", "end_to_end")
_TIMES = [
    *(f"seconds_{phase}" for phase in _PHASES),
    *(f"seconds_{phase}_{baseline}" for baseline in BASELINES for phase in _PHASES[-2:]),
]
_SPEEDUPS = [
    *(f"decode_speedup_{baseline}" for baseline in BASELINES),
    *(f"end_to_end_speedup_{baseline}" for baseline in BASELINES),
]


class Measured(NamedTuple):
    """A clip, decoded in each way."""

    case: Case
    comparison: Comparison

    @property
    def stats(self) -> DecodeStats:
        """Of the first speculative run; the others repeat it."""
        stats = self.comparison.runs["sparrow"][0].stats
        assert stats is not None
        return stats


def measure(
    decoder: SparrowDecoder,
    prompt: Prompt,
    cases: Sequence[Case],
    *,
    repeats: int,
    max_new_tokens: int,
    seed: int = 0,
    on_run: Callable[[int, int], None] = lambda done, total: None,
    **settings: Any,
) -> Iterator[list[Row]]:
    """Decode every case in each of `comparison.WAYS`; the rows of each length as it is done.

    Args:
        max_new_tokens: of a text; fewer where the target's context is full before.
        on_run: called as `on_run(done, total)` before each run and at the end.
        settings: further arguments of `generate`.

    Yields:
        A row that is about all clips of a length, and one a clip; times in seconds. `None` where
        there is no such number: of texts of one token, and of sampled texts, which differ.
    """
    done, ways = 0, 1 + len(BASELINES)
    total = ways * repeats * len(cases)

    def count(way: str, repeat: int) -> None:
        nonlocal done
        on_run(done, total)
        done += 1

    for turn, (_, group) in enumerate(groupby(cases, key=lambda case: case.length)):
        found = []
        for place, case in enumerate(group):
            inputs = prompt.inputs(case.read())
            room = prompt.context - inputs["input_ids"].shape[1]
            comparison = compare(
                decoder,
                inputs,
                repeats=repeats,
                rotation=turn + place,
                seed=seed,
                on_run=count,
                max_new_tokens=min(max_new_tokens, room),
                **settings,
            )
            found.append(Measured(case, comparison))
        yield [length_row(found), *map(clip_row, found)]
    on_run(total, total)


def clip_row(one: Measured) -> Row:
    """What was measured of one clip; times are medians over the repeats."""
    case, comparison, stats = one.case, one.comparison, one.stats
    seconds = {f"seconds_{phase}": comparison.seconds("sparrow", phase) for phase in _PHASES}
    for way in BASELINES:
        for phase in _PHASES[-2:]:
            seconds[f"seconds_{phase}_{way}"] = comparison.seconds(way, phase)
    is_greedy = comparison.identical is not None
    return {
        "visual_tokens_asked": case.length,
        "clip": case.clip,
        "clips": 1,
        "visual_tokens": case.visual_tokens,
        "frames": case.frames,
        "frames_per_second": case.fps,
        "new_tokens": stats.new_tokens,
        "target_calls": stats.target_calls,
        "mean_emitted": stats.mean_emitted,
        "histogram": stats.histogram,
        **seconds,
        **{f"decode_speedup_{way}": comparison.decode_speedup(way) for way in BASELINES},
        **{f"end_to_end_speedup_{way}": comparison.end_to_end_speedup(way) for way in BASELINES},
        "clips_identical": int(bool(comparison.identical)) if is_greedy else None,
        "clips_near_tie": int(bool(comparison.near_tie_at)) if is_greedy else None,
        "near_tie_at": comparison.near_tie_at,
    }


def length_row(found: Sequence[Measured]) -> Row:
    """The same of all clips of a length: tokens and calls are sums, `mean_emitted` is over all
    calls, lengths are means, times and speedups are medians over the clips."""
    rows = [clip_row(one) for one in found]
    stats = [one.stats for one in found if one.stats.target_calls]

    def column(name: str) -> list[Any]:
        return [row[name] for row in rows if row[name] is not None]

    made: Row = dict.fromkeys(rows[0])
    made |= {"visual_tokens_asked": rows[0]["visual_tokens_asked"], "clip": ALL}
    for name in ("visual_tokens", "frames", "frames_per_second"):
        made[name] = fmean(column(name))
    for name in ("clips", "new_tokens", "target_calls", "clips_identical", "clips_near_tie"):
        made[name] = sum(column(name)) if column(name) else None
    for name in (*_TIMES, *_SPEEDUPS):
        made[name] = median(column(name)) if column(name) else None
    made["mean_emitted"] = mean_emitted(stats) if stats else None
    made["histogram"] = summed([one.histogram for one in stats]) if stats else []
    made["near_tie_at"] = []
    return made
