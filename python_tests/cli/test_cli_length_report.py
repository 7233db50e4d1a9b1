"""What `sparrow evaluate` says of a length, from rows that are made up."""

from __future__ import annotations

from typing import Any

from sparrow_kernels.cli.errors import one_line
from sparrow_kernels.cli.length_report import lines
from sparrow_kernels.decoding.stats import PHASES


def row(**facts: Any) -> dict[str, Any]:
    of_ways = {
        f"{what}_speedup_{way}": 2.0
        for what in ("decode", "end_to_end")
        for way in ("cached", "generate")
    }
    return {
        **{"visual_tokens": 496.0, "visual_tokens_asked": 500, "clips": 3, "clips_identical": 3},
        **{"mean_emitted": 3.0, "histogram": [0, 1, 2]},
        **{f"seconds_{phase}": 0.0004 * (1 + place) for place, phase in enumerate(PHASES)},
        **of_ways,
        **facts,
    }


def clip(name: str, identical: bool, near_tie: bool = False) -> dict[str, Any]:
    return {
        **{"clip": name, "clips_identical": identical, "clips_near_tie": near_tie},
        "near_tie_at": [7] if near_tie else [],
    }


def test_a_clip_is_named_by_what_became_of_its_text() -> None:
    clips = [clip("same.mp4", True), clip("tie.mp4", False, True), clip("other.mp4", False)]
    text = lines([row(clips_identical=1), *clips])[-1]
    assert text == (
        "  text:     1 of 3 identical; a near tie within rounding: tie.mp4 from token 7 on;"
        " DIFFERS from decoding without speculation: other.mp4"
    )
    assert lines([row(), *clips])[-1].endswith("to decoding without speculation")


def test_a_phase_of_a_millisecond_is_not_nothing() -> None:
    (seconds,) = [line for line in lines([row()]) if line.startswith("  seconds:")]
    assert seconds == (
        "  seconds:  prefill 0.000, draft prefill 0.001, draft 0.001, verify 0.002, commit 0.002"
        " (medians)"
    )


def test_an_error_is_a_line_that_a_terminal_can_show() -> None:
    shown = one_line("clip \x1b[2J is\nno " + "x" * 1000)
    assert shown.startswith("clip \\x1b[2J is no xx") and shown.endswith("x …")
    assert len(shown) == 400
