"""Rows of clips and of lengths, from comparisons made up, and the files they are written to."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from sparrow_kernels.cli.length_report import lines
from sparrow_kernels.decoding.stats import PHASES, DecodeStats, RequestStats
from sparrow_kernels.measuring.by_length import Measured, clip_row, length_row
from sparrow_kernels.measuring.clip_plan import Case
from sparrow_kernels.measuring.comparison import Comparison, Run
from sparrow_kernels.measuring.row_files import write_csv, write_plot


def run(tokens: int, decode: float, histogram: list[int] | None = None) -> Run:
    """Prefills take 1 s and 0.1 s, the other phases a third of `decode` each."""
    seconds = {"decode": decode, "end_to_end": decode + 1.1, "prefill": 1.0, "draft_prefill": 0.1}
    seconds |= dict.fromkeys(PHASES[2:], decode / 3)
    stats = None
    if histogram is not None:
        stats = DecodeStats(rows=[RequestStats(tokens, sum(histogram), histogram)])
    return Run(torch.arange(2 + tokens), 2, seconds, 1, stats)


def measured(clip: str, ours: float, theirs: float, histogram: list[int], **more: Any) -> Measured:
    emitted = 1 + sum(n * count for n, count in enumerate(histogram))
    runs = {
        "sparrow": [run(emitted, ours, histogram), run(emitted, 9 * ours, histogram)] * 2,
        "cached": [run(emitted, theirs)],
        "generate": [run(emitted, 2 * theirs)],
    }
    runs["sparrow"].pop()
    case = Case(clip, 500, 20, 2.0, 496 if clip == "a.mp4" else 504, lambda: None)
    return Measured(case, Comparison(runs, **more))


FOUND = [
    measured("a.mp4", 1.0, 2.0, [0, 1, 2], identical=True),
    measured("b.mp4", 2.0, 6.0, [0, 0, 0, 2], identical=False, near_tie_at=[3, 5]),
    measured("c.mp4", 4.0, 4.0, [0, 3], identical=False),
]


def test_a_clip_row_is_its_comparison() -> None:
    row = clip_row(FOUND[0])
    assert (row["clip"], row["clips"], row["visual_tokens"]) == ("a.mp4", 1, 496)
    assert (row["new_tokens"], row["target_calls"]) == (6, 3)
    assert row["mean_emitted"] == pytest.approx(5 / 3) and row["histogram"] == [0, 1, 2]
    assert row["seconds_prefill"] == 1.0 and row["seconds_draft"] == pytest.approx(1 / 3)
    assert row["seconds_decode"] == 1.0 and row["seconds_decode_generate"] == 4.0
    assert row["decode_speedup_cached"] == pytest.approx(2.0)
    assert row["decode_speedup_generate"] == pytest.approx(4.0)
    assert row["end_to_end_speedup_generate"] == pytest.approx(5.1 / 2.1)
    assert (row["clips_identical"], row["clips_near_tie"]) == (1, 0)


def test_a_length_row_is_over_its_clips() -> None:
    row = length_row(FOUND)
    assert (row["clip"], row["clips"], row["visual_tokens_asked"]) == ("all", 3, 500)
    assert row["visual_tokens"] == pytest.approx((496 + 504 + 504) / 3)
    assert (row["new_tokens"], row["target_calls"]) == (6 + 7 + 4, 3 + 2 + 3)
    assert row["mean_emitted"] == pytest.approx((5 + 6 + 3) / 8)  # over calls, not over clips
    assert row["histogram"] == [0, 4, 2, 2]
    assert row["seconds_decode"] == 2.0 and row["seconds_decode_cached"] == 4.0
    assert row["decode_speedup_cached"] == pytest.approx(2.0)  # the median of 2, 3 and 1
    assert (row["clips_identical"], row["clips_near_tie"]) == (1, 1)
    assert list(row) == list(clip_row(FOUND[0]))
    assert [name for name, value in row.items() if value is None] == []


def test_what_is_told_of_texts_that_differ() -> None:
    *_, text = lines([length_row(FOUND), *map(clip_row, FOUND)])
    assert text == (
        "  text:     1 of 3 identical; a near tie within rounding: b.mp4 from token 3, 5 on;"
        " DIFFERS from decoding without speculation: c.mp4"
    )
    *_, text = lines([length_row(FOUND[:1]), clip_row(FOUND[0])])
    assert "identical, token for token" in text


def test_texts_of_one_token_have_no_calls_to_speak_of() -> None:
    one = measured("a.mp4", 0.0, 0.0, [], identical=True)
    row = length_row([one])
    assert clip_row(one)["mean_emitted"] is None and row["mean_emitted"] is None
    assert row["decode_speedup_cached"] is None and row["histogram"] == []
    assert "every text has one token" in "\n".join(lines([row, clip_row(one)]))
    both = length_row([one, FOUND[1]])
    assert both["mean_emitted"] == pytest.approx(3.0)
    assert both["decode_speedup_cached"] == pytest.approx(3.0)


def test_csv_and_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [length_row(FOUND), *map(clip_row, FOUND)]
    table, plot = tmp_path / "a.csv", tmp_path / "a.png"
    write_csv(table, rows, {"question": 'What, "now"?', "repeats": 3})
    with table.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["clip"] for row in read] == ["all", "a.mp4", "b.mp4", "c.mp4"]
    assert all(row["question"] == 'What, "now"?' and row["repeats"] == "3" for row in read)
    assert (read[0]["histogram"], read[2]["near_tie_at"], read[0]["mean_emitted"]) == (
        "0|4|2|2",
        "3|5",
        "1.75",
    )
    write_plot(plot, rows)
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    sampled = [dict(row, mean_emitted=None, decode_speedup_cached=None) for row in rows]
    write_plot(plot, sampled)  # nothing to draw of one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.png"]


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("mine")
    with pytest.raises(TypeError):
        write_csv(table, [length_row(FOUND), None], {})
    assert table.read_text() == "mine"
    with pytest.raises(OSError, match="gone"):
        write_csv(tmp_path / "gone" / "a.csv", [length_row(FOUND)], {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
