"""The goals of decoding, as data: what the demo, the lossless run and the evaluation must find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import records

Rows = Sequence[Mapping[str, Any]]
Judgement = tuple[bool, str] | None
"""Whether it is met, and the numbers; None where a clip of that length was not measured."""

_LENGTHS = {500: (400, 600), 4_000: (3_500, 4_500), 24_000: (22_000, 26_000)}
"""Visual tokens of a clip that a goal may call so long: clips come in whole frames."""

_NOISE = 1.05
"""Two medians of five on a shared machine differ by as much without a reason."""

BY = {
    "demo.json": "`make demo`",
    "lossless.json": "`python -m bench.lossless`",
    "evaluation.json": "`python -m bench.evaluation`",
}


class Goal(NamedTuple):
    """What a result file should show."""

    name: str
    file: str
    judge: Callable[[Rows], Judgement]

    def judged(self, results: Path) -> tuple[str, str, str]:
        """What was measured, by which command, and met, missed or not yet measured."""
        by = BY[self.file]
        path = results / self.file
        judgement = self.judge(records.read(path).rows) if path.exists() else None
        if judgement is None:
            return "-", by, "not yet measured"
        is_met, text = judgement
        return text, by, "met" if is_met else "missed"


def _of_length(found: Rows, length: int) -> Mapping[str, Any] | None:
    low, high = _LENGTHS[length]
    return next((row for row in found if low <= row["visual_tokens"] <= high), None)


def _at(length: int, column: str, least: float) -> Callable[[Rows], Judgement]:
    """At least `least` for a clip of that length."""

    def judge(found: Rows) -> Judgement:
        row = _of_length(found, length)
        return None if row is None else (row[column] >= least, f"{row[column]:.2f}")

    return judge


def _plain_loop(found: Rows) -> Judgement:
    pairs = [(row["ms_a_token_plain"], row["ms_a_token_generate"]) for row in found]
    text = ", ".join(
        f"{plain:.2f} against {theirs:.2f} ms at {row['visual_tokens']:,}"
        for row, (plain, theirs) in zip(found, pairs, strict=True)
    )
    return all(plain <= _NOISE * theirs for plain, theirs in pairs), text


def _draft_time(found: Rows) -> Judgement:
    short, long = _of_length(found, 500), _of_length(found, 24_000)
    if short is None or long is None:
        return None
    ratio = long["draft_ms_a_call"] / short["draft_ms_a_call"]
    return ratio <= 1.25, f"{ratio:.2f}"


def _memory(found: Rows) -> Judgement:
    shares = [row["kv_over_needed"] for row in found]
    return max(shares) <= 1.05, ", ".join(f"{share:.3f}" for share in shares)


def _identical(found: Rows) -> Judgement:
    same, clips = (sum(row[column] for row in found) for column in ("identical", "clips"))
    return same == clips, f"{same} of {clips}"


def _shares(columns: Sequence[str], least: Mapping[int, float]) -> Callable[[Rows], Judgement]:
    """Shares of 1, at least so much for clips of each length."""

    def judge(found: Rows) -> Judgement:
        rows = [(_of_length(found, length), wanted) for length, wanted in least.items()]
        known = [(row, wanted) for row, wanted in rows if row is not None]
        if len(known) < len(rows):
            return None
        text = "; ".join(
            f"{', '.join(f'{100 * row[column]:.1f}' for column in columns)} %"
            f" at {row['visual_tokens']:,}"
            for row, _ in known
        )
        return all(row[column] >= wanted for row, wanted in known for column in columns), text

    return judge


def _emitted(found: Rows) -> Judgement:
    rows = [row for length in (500, 4_000) if (row := _of_length(found, length)) is not None]
    if len(rows) < 2:
        return None
    means = [row["mean_emitted"] for row in rows]
    return min(means) >= 5, ", ".join(f"{mean:.2f}" for mean in means)


def _other_clip(found: Rows) -> Judgement:
    lost = [row["mean_emitted"] - row["mean_emitted_other_clip"] for row in found]
    return min(lost) >= 1, ", ".join(f"{row['mean_emitted_other_clip']:.2f}" for row in found)


GOALS = (
    Goal(
        "decode speedup over the plain loop, 24k visual tokens: at least 2.0",
        "demo.json", _at(24_000, "speedup_plain", 2),
    ),
    Goal(
        "the same, 500: at least 1.5, aim 1.8", "demo.json", _at(500, "speedup_plain", 1.5),
    ),
    Goal(
        "decode speedup over `generate` as it comes, 24k: at least 2.8",
        "demo.json", _at(24_000, "speedup_generate", 2.8),
    ),
    Goal(
        "plain loop no slower a token than `generate`, within 5 % of noise", "demo.json",
        _plain_loop,
    ),
    Goal("draft time a call, 24k over 500: at most 1.25", "demo.json", _draft_time),
    Goal(
        "KV memory, the draft's included, over prompt + `max_new_tokens` + tree: at most 1.05",
        "demo.json", _memory,
    ),
    Goal(
        "greedy text identical to `generate`, unseen clips × trees 6-5-1, 25-5-8, 30-4-8",
        "lossless.json", _identical,
    ),
    Goal(
        "content words right: 97 % at 500, 93 % at 4k",
        "evaluation.json", _shares(["content"], {500: 0.97, 4_000: 0.93}),
    ),
    Goal("captions exact at 500: 70 %", "evaluation.json", _shares(["exact"], {500: 0.7})),
    Goal(
        "color, count, shape, action answered right at 500: 85 % each",
        "evaluation.json", _shares(["color", "count", "shape", "action"], {500: 0.85}),
    ),
    Goal("`mean_emitted` with 6-5-1: 5.0 at 500 and 4k", "evaluation.json", _emitted),
    Goal(
        "the same draft fed another clip's states: at least 1.0 less",
        "evaluation.json", _other_clip,
    ),
)  # fmt: skip
