"""`sparrow generate`: what it prints, and every way it can be refused."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

av = pytest.importorskip("av")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from decoding_cases import random_pair, video  # noqa: E402
from generate_cases import one_line_error, plain_text, words, written  # noqa: E402

from sparrow_kernels.cli import main  # noqa: E402

KEYS = {
    *("text", "visual_tokens", "new_tokens", "target_calls", "mean_emitted"),
    *("histogram", "seconds"),
}
COMPARED = {
    *("identical", "baseline_text", "decode_speedup", "end_to_end_speedup", "near_tie_at"),
    *("decode_speedup_p20_p80", "end_to_end_speedup_p20_p80"),
}
PHASES = {"prefill", "draft_prefill", "draft", "verify", "commit"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("generate"))


def test_the_answer_is_on_stdout_and_the_summary_on_stderr(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder, "--max-new-tokens", "7")) == 0
    captured = capsys.readouterr()
    assert captured.out == plain_text(folder, 7) + "\n"
    assert captured.err.startswith("8 visual tokens; 7 tokens in ")
    assert captured.err.count("\n") == 1


def test_json_is_one_object_with_the_agreed_keys(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder, "--max-new-tokens", "7", "--json")) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.out.count("\n") == 1 and captured.err == ""
    assert set(report) == KEYS and set(report["seconds"]) == PHASES
    assert report["text"] == plain_text(folder, 7)
    assert (report["visual_tokens"], report["new_tokens"]) == (8, 7)
    assert report["mean_emitted"] == pytest.approx(6 / report["target_calls"])
    assert sum(k * steps for k, steps in enumerate(report["histogram"])) == 6


def test_json_of_a_comparison(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--max-new-tokens", "7", "--json", "--compare", "--repeats", "2", "--tree", "4-3-1")
    assert main(words(folder, *more)) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == KEYS | COMPARED and set(report["seconds"]) == PHASES
    assert report["identical"] is True and report["near_tie_at"] == []
    assert report["text"] == report["baseline_text"]
    assert set(report["decode_speedup"]) == {"cached", "generate"}
    assert all(speedup > 0 for speedup in report["decode_speedup"].values())
    low, high = report["end_to_end_speedup_p20_p80"]
    assert 0 < low <= report["end_to_end_speedup"] <= high
    for baseline, (low, high) in report["decode_speedup_p20_p80"].items():
        assert low <= report["decode_speedup"][baseline] <= high


def test_lines_of_a_comparison(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ratio, runs = r"[0-9.]+x", {"1": "one run, so no spread", "2": "medians of 2 runs, p20–p80"}
    for repeats, spread in (("1", ""), ("2", r" \([0-9.]+–[0-9.]+\)")):
        more = ("--max-new-tokens", "4", "--compare", "--repeats", repeats)
        assert main(words(folder, *more)) == 0
        _, text, speed = capsys.readouterr().err.splitlines()
        assert text == "text: identical, token for token, to decoding without speculation"
        each = f"{ratio}{spread} in decoding, {ratio}{spread} end to end against"
        line = rf"speed: {each} our plain loop; {each} transformers' generate \({runs[repeats]}\)"
        assert re.fullmatch(line, speed)


def test_one_token_has_no_mean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(folder, "--max-new-tokens", "1", "--json", "--compare")) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["target_calls"], report["mean_emitted"], report["histogram"]) == (0, None, [])
    assert report["decode_speedup"] == {"cached": None, "generate": None}


@pytest.mark.slow
def test_sampling_follows_the_seed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sampled(seed: str, *more: str) -> Any:
        settings = ("--max-new-tokens", "8", "--temperature", "1.5", "--seed", seed, "--json")
        assert main(words(folder, *settings, *more)) == 0
        return json.loads(capsys.readouterr().out)

    first = sampled("1", "--tree", "2x1")
    assert first["text"] == sampled("1", "--tree", "2x1")["text"]
    assert len({first["text"], *(sampled(seed)["text"] for seed in "234")}) > 1
    assert sampled("1", "--compare", "--repeats", "1")["identical"] is None


class TestRefusals:
    def test_clips(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from sparrow_kernels.embedded.clips import write_mp4

        text = tmp_path / "notes.mp4"
        text.write_text("not a video")
        still = tmp_path / "still.mp4"
        write_mp4(still, video(1).transpose(0, 2, 3, 1))
        for clip, said in [
            (tmp_path / "none.mp4", "none.mp4 does not exist"),
            (tmp_path, "must be a video file"),
            (text, "cannot be read as a video"),
            (still, "at least 2 frames, got 1"),
        ]:
            assert main(words(folder, clip=clip)) == 1
            assert said in one_line_error(capsys)

    def test_directories(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from sparrow_kernels.drafting import SparrowDraft

        other = SparrowDraft.for_target(random_pair(layers=3)[0])
        other.save_pretrained(tmp_path / "other")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "config.json").write_text("{}")
        (tmp_path / "broken" / "model.safetensors").write_bytes(b"\0" * 16)
        capsys.readouterr()  # transformers' bars while saving
        for role, directory, said in [
            ("--draft", "missing", "draft: must be a directory, got"),
            ("--draft", "other", "layers 3, target has 2"),
            ("--target", "missing", f"got {tmp_path}/missing: there is no such folder\n"),
            ("--target", "broken", f"{tmp_path}/broken/model.safetensors must be a whole safet"),
            ("--draft", "broken", f"{tmp_path}/broken/model.safetensors must be a whole safet"),
        ]:
            assert main(words(folder, role, str(tmp_path / directory))) == 1
            assert said in one_line_error(capsys)

    def test_a_prompt_beyond_the_context(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = folder / "target" / "config.json"
        before = config.read_text()
        small = json.loads(before)
        small["text_config"]["max_position_embeddings"] = 20
        config.write_text(json.dumps(small))
        try:
            assert main(words(folder)) == 1
        finally:
            config.write_text(before)
        message = one_line_error(capsys)
        assert "shorter than the model's context of 20 tokens" in message
        assert "--fps 1.0" in message

    def test_an_empty_question(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = words(folder)
        command[2] = " "
        assert main(command) == 2
        assert "argument QUESTION: must not be empty" in one_line_error(capsys)

    def test_without_pyav(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        assert main(words(folder)) == 1
        assert "av is not installed (pip install 'sparrow_kernels[video]')" in one_line_error(
            capsys
        )
