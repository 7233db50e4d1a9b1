"""`sparrow evaluate`: generated clips, video files of a user, targets of any family."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("av")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from evaluate_cases import FAMILIES, pair, written  # noqa: E402
from family_cases import tiny  # noqa: E402

from sparrow_kernels.cli import evaluate, main  # noqa: E402
from sparrow_kernels.decoding.stats import PHASES  # noqa: E402
from sparrow_kernels.embedded.clips import make_clip  # noqa: E402
from sparrow_kernels.measuring import by_length  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n"
SHORT = ("--max-new-tokens", "8", "--repeats", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(autouse=True)
def nothing_printed_yet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()  # transformers' bars while saving


@pytest.mark.slow
def test_generated_clips_for_the_embedded_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed, written and drawn are the comparisons' own numbers."""
    seen: list[Any] = []
    compare = by_length.compare

    def spied(*arguments: Any, **settings: Any) -> Any:
        seen.append(compare(*arguments, **settings))
        return seen[-1]

    monkeypatch.setattr(by_length, "compare", spied)
    table, plot = tmp_path / "rows.csv", tmp_path / "plot.png"
    files = ("--csv", str(table), "--plot", str(plot))
    assert main(["evaluate", "--clips", "2", "--lengths", "40", "60", *SHORT, *files]) == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clip"] for row in rows] == ["all", "generated-5000000", "generated-5000001"] * 2
    of_clips = [row for row in rows if row["clip"] != "all"]
    assert len(seen) == 4
    for row, comparison in zip(of_clips, seen, strict=True):
        stats = comparison.runs["sparrow"][0].stats
        assert float(row["mean_emitted"]) == pytest.approx(stats.mean_emitted, rel=1e-5)
        assert row["histogram"] == "|".join(map(str, stats.histogram))
        assert int(row["new_tokens"]) == len(comparison.runs["sparrow"][0].tokens) <= 8
        for phase in (*PHASES, "decode", "end_to_end"):
            expected = comparison.seconds("sparrow", phase)
            assert float(row[f"seconds_{phase}"]) == pytest.approx(expected, rel=1e-5)
        for way in ("cached", "generate"):
            expected = comparison.decode_speedup(way)
            assert float(row[f"decode_speedup_{way}"]) == pytest.approx(expected, rel=1e-5)
        assert row["clips_identical"] == "1" and comparison.identical
    lengths = [(row["visual_tokens_asked"], float(row["visual_tokens"])) for row in rows[::3]]
    made = [make_clip(tokens, 5_000_000).visual_tokens for tokens in (40, 60)]
    assert lengths == [("40", made[0]), ("60", made[1])]
    assert plot.read_bytes().startswith(PNG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plot.png", "rows.csv"]
    captured = capsys.readouterr()
    assert captured.err == ""
    printed = captured.out.splitlines()
    assert printed[0] == "40 visual tokens (40 asked for), 2 clips"
    assert f"  emitted:  {float(rows[0]['mean_emitted']):.2f} emitted a call" in printed[1]
    assert printed[1].endswith(f": {rows[0]['histogram']}")
    assert "text:     identical, token for token" in captured.out
    assert f"{float(rows[0]['decode_speedup_cached']):.2f}x in decoding" in printed[3]


def test_a_length_is_written_before_the_next_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, compare = tmp_path / "rows.csv", by_length.compare

    def fails_at_60(decoder: Any, inputs: Any, **settings: Any) -> Any:
        if table.exists():
            raise RuntimeError("no memory left")
        return compare(decoder, inputs, **settings)

    monkeypatch.setattr(by_length, "compare", fails_at_60)
    words = ["--clips", "1", "--visual-tokens", "40", "60", *SHORT, "--csv", str(table)]
    assert main(["evaluate", *words]) == 1
    assert [line.split(",")[0] for line in table.read_text().splitlines()[1:]] == ["40", "40"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_video_files_for_a_target_of_another_family(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Lengths are reached by sampling; what cannot reach one is named and left out."""
    from sparrow_kernels.models.families import Parts
    from sparrow_kernels.models.inputs import build_inputs

    target, processor = tiny(name)
    inputs = build_inputs(processor, "Why?", [folder / "clips" / "a.mp4"])
    whole = int(Parts(target).visual_mask(inputs["input_ids"]).sum())
    short = round(whole / 5)  # the four frames of short.mp4
    asked = [str(short), str(round(whole * 0.8))]
    words = ["--clips", str(folder / "clips"), "--lengths", *asked, "--question", "Why?", *SHORT]
    assert (
        main(["evaluate", *pair(folder, name), *words, "--csv", str(tmp_path / "a.csv"), "--json"])
        == 0
    )
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    rows = {(row["visual_tokens_asked"], row["clip"]): row for row in report["rows"]}
    clips = ("all", "a.mp4", "b.mp4", "short.mp4")
    expected = [(int(asked[0]), clip) for clip in clips]
    assert list(rows) == [*expected, *((int(asked[1]), clip) for clip in clips[:3])]
    for (length, _), row in rows.items():
        assert row["visual_tokens"] == pytest.approx(length, rel=0.15)
    assert [rows[int(asked[1]), clip]["frames"] for clip in clips[1:3]] == [16, 16]
    assert rows[int(asked[0]), "a.mp4"]["frames_per_second"] == pytest.approx(2 / 6)
    left_out = report["left_out"]
    assert [(one["clip"], one["length"]) for one in left_out] == [("short.mp4", int(asked[1]))]
    assert left_out[0]["reason"].startswith("it reaches ")
    assert captured.err.startswith(f"sparrow: warning: short.mp4 is left out at {asked[1]} visual")
    assert all(row["clips_identical"] == row["clips"] for row in rows.values())
    assert report["question"] == "Why?" and report["repeats"] == 1
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 8


def test_files_without_lengths_are_as_they_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(folder / "clips" / clip) for clip in ("short.mp4", "a.mp4")]
    words = ["--clips", *files, "--json", *SHORT, "--temperature", "0.7"]
    assert main(["evaluate", *pair(folder, "llava_onevision"), *words]) == 0
    every, short, long = json.loads(capsys.readouterr().out)["rows"]
    assert (short["clip"], short["frames"], long["frames"]) == ("short.mp4", 4, 20)
    assert short["frames_per_second"] == 2 and short["visual_tokens_asked"] is None
    assert every["visual_tokens"] == (short["visual_tokens"] + long["visual_tokens"]) / 2
    assert every["clips_identical"] is None  # sampled


ANSWERED = {
    "easy": ["content", "exact", "color", "count", "shape", "action"],
    "harder": ["content", "exact", "brief", "list", "color", "count", "shape", "action", "place"],
}


@pytest.mark.parametrize("world", ANSWERED)
def test_answers_prints_both_tables(
    world: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    kinds = ANSWERED[world]
    target = SimpleNamespace(config=SimpleNamespace(embedded_world=world))

    def answers(target: Any, processor: Any, tokens: int, seeds: range) -> dict[str, Any]:
        asked.append((tokens, len(seeds)))
        return {"visual_tokens": tokens} | {k: 0.1 * i for i, k in enumerate(kinds)}

    def emitted(*arguments: Any) -> dict[str, Any]:
        return {
            "visual_tokens": arguments[3],
            "tree": "6-5-1",
            "mean_emitted": 4.567,
            "mean_emitted_other_clip": 2.0,
        }

    monkeypatch.setattr("sparrow_kernels.training.evaluation.evaluate_budget", answers)
    monkeypatch.setattr("sparrow_kernels.measuring.evaluation.evaluate_draft", emitted)
    monkeypatch.setattr(
        "sparrow_kernels.cli.question.load_decoder",
        lambda *_: (SimpleNamespace(target=target, draft="draft"), "processor"),
    )
    words = ["--answers", "--clips", "3", "--visual-tokens", "60", "500"]
    assert main(["evaluate", *words]) == 0
    assert asked == [(60, 3), (500, 3)]
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert ["visual", "tokens", *kinds] in rows
    assert ["60", *(f"{0.1 * i:.3f}" for i in range(len(kinds)))] in rows
    assert ["500", "6-5-1", "4.57", "2.00"] in rows


def test_quick_asks_about_two_short_clips_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(evaluate, "_run", lambda given, *asked: seen.append(asked) or 0)
    monkeypatch.setattr(evaluate.answers, "run", lambda given, *asked: seen.append(asked) or 0)
    for words in (["--quick"], [], ["--answers"], ["--clips", "2", "--lengths", "60", "60"]):
        assert main(["evaluate", *words]) == 0
    assert seen == [(2, [100]), (5, [500, 4000]), (50, [500, 4000]), (2, [60])]
