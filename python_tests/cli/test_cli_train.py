"""`sparrow train draft --data`: from dialogues to a draft that `sparrow generate` takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dialogue_cases import clip_dialogue, text_dialogue, write_lines
from family_cases import tiny

from sparrow_kernels import load_draft
from sparrow_kernels.cli import main
from sparrow_kernels.embedded.captions import description
from sparrow_kernels.embedded.clips import make_clip, render, write_mp4
from sparrow_kernels.models.pair import embedded_weights, load_target
from sparrow_kernels.training.small_target import check_small_target

QUICK = ["--steps", "3", "--batch", "2", "--passes", "2", "--tree", "6-5-1"]


def clips(folder: Path, count: int = 3) -> Path:
    """Dialogues about the package's own clips."""
    lines = []
    for seed in range(count):
        script = make_clip(40, seed)
        write_mp4(folder / f"{seed}.mp4", render(script))
        lines.append(clip_dialogue(description(script), f"{seed}.mp4"))
    return write_lines(folder / "data.jsonl", lines)


def text_target(folder: Path) -> Path:
    """A target that reads text alone, as transformers saves it."""
    target, tokenizer = tiny("Llama")
    target.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def error(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.slow
def test_from_clips_to_a_draft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = clips(tmp_path), tmp_path / "draft"
    command = ["train", "draft", "--data", str(data), "--out", str(out), "--held-out", "1"]
    assert main([*command, *QUICK, "--trained-to-see", "middle", "--cache-gb", "1"]) == 0
    assert f"{out}: a trained draft" in capsys.readouterr().out
    assert load_draft(out, load_target()[0]).config.trained_to_see == "middle"
    assert len(list(out.glob("states/*/*.safetensors"))) == 2
    asked = [str(tmp_path / "0.mp4"), "Describe this video.", "--draft", str(out), "--json"]
    assert main(["generate", *asked, "--compare", "--max-new-tokens", "12"]) == 0
    assert json.loads(capsys.readouterr().out)["identical"] is True
    # Done: the same command has nothing left to do.
    before = (out / "training.csv").read_text()
    assert main([*command, *QUICK, "--trained-to-see", "middle"]) == 0
    assert (out / "training.csv").read_text() == before


@pytest.mark.slow
def test_a_text_target_writes_its_own_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = text_target(tmp_path / "target")
    data = write_lines(tmp_path / "data.jsonl", [text_dialogue(seed) for seed in range(5)])
    answers, out = tmp_path / "answers.jsonl", tmp_path / "draft"
    command = ["train", "draft", "--target", str(target), "--data", str(data), "--out", str(out)]
    own = ["--regenerate", str(answers), "--max-new-tokens", "8", "--temperature", "1"]
    more = ["--draft-vocabulary", "64", "--held-out", "1", "--loss", "vispec", "--text-steps", "1"]
    assert main([*command, *own, *QUICK, *more, "--learning-rate", "1e-3"]) == 0
    written = [json.loads(line) for line in answers.read_text().splitlines()]
    assert 3 <= len(written) <= 5, "a random target may say nothing, which is no answer"
    assert all(len(each["messages"][-1]["content"]) > 1 for each in written)
    draft = load_draft(out, load_target(target)[0])
    assert draft.draft_vocabulary_size == 64 and draft.config.target_model_type == "llama"
    facts = (out / "README.md").read_text()
    assert '"loss": "vispec"' in facts and '"learning_rate": 0.001' in facts


def test_broken_data_is_named_by_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = text_target(tmp_path / "target")
    lines: list[Any] = [text_dialogue(0), text_dialogue(1), "{broken", text_dialogue(2)]
    data = write_lines(tmp_path / "data.jsonl", lines)
    command = ["train", "draft", "--target", str(target), "--data", str(data)]
    command += ["--out", str(tmp_path / "draft"), "--held-out", "0", *QUICK]
    assert main(command) == 1
    assert f"{data}:3: must be one JSON object" in error(capsys)
    assert not (tmp_path / "draft").exists()
    assert main([*command, "--on-wrong", "skip"]) == 0
    assert f"left out: {data}:3: must be one JSON object" in capsys.readouterr().err
    write_lines(data, [lines[0], text_dialogue(4, words=400), lines[1]])
    too_long = ["--max-length", "200", "--fresh"]
    assert main([*command, *too_long]) == 1
    assert f"{data}:2: must be of at most 200 tokens" in error(capsys)
    assert main([*command, *too_long, "--on-wrong", "skip"]) == 0


REFUSED = {
    "data's options without data": (["--batch", "2"], 2, "--batch must be left out without --data"),
    "texts without steps": (
        ["--data", "x", "--text-data", "y"],
        2,
        "--text-data must be left out without --text-steps",
    ),
    "a temperature of nothing": (
        ["--data", "x", "--temperature", "1"],
        2,
        "--temperature must be left out without --regenerate",
    ),
    "a mode that is none": (["--mode", "best"], 2, "invalid choice: 'best'"),
    "a rate of zero": (["--data", "x", "--learning-rate", "0"], 2, "a number above 0 and below 1"),
    "answers over their data": (
        ["--data", "x", "--regenerate", "./x"],
        2,
        "--regenerate must be another file than --data",
    ),
    "a target that is not there": (["--target", "x"], 1, "got x: there is no such folder"),
    "no passes": (["--data", "x", "--passes", "0"], 2, "a whole number from 1 to 16"),
    "data that is not there": (["--data", "none.jsonl"], 1, "No such file"),
    "data that is a folder": (["--data", "."], 1, "Is a directory"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, status, message = REFUSED[name]
    assert main(["train", "draft", *arguments]) == status
    assert message in error(capsys)


def test_a_target_takes_none_of_a_drafts_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "target", "--data", "x"]) == 2
    assert "unrecognized arguments: --data x (see sparrow train target --help)" in error(capsys)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision", "Llama"])
def test_a_target_that_the_packages_own_clips_are_not_for_needs_data(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before its weights are read: one of 7B takes minutes."""
    monkeypatch.setattr("sparrow_kernels.models.pair.load_target", None)
    tiny(name)[0].save_pretrained(tmp_path / "target")
    out = tmp_path / "out"
    command = ["train", "draft", "--target", str(tmp_path / "target"), "--out", str(out)]
    assert main(command) == 1
    said = error(capsys)
    assert f"--data must be given for {tmp_path / 'target'}, of family " in said
    assert "docs/training.md has their format" in said and not out.exists()


def test_embedded_targets_need_none() -> None:
    for world in ("easy", "harder"):
        check_small_target(embedded_weights(world) / "target")


@pytest.mark.parametrize(
    "fresh, saves, left",
    [
        (False, False, "too early to have left anything to go on with in OUT"),
        (False, True, "the same command goes on from the last checkpoint in OUT"),
        (True, True, "the same command without --fresh goes on from the last checkpoint in OUT"),
        (True, None, "too early to have left anything: OUT/training.pt is that of an earlier run"),
    ],
)
def test_who_interrupts_a_run_is_told_how_it_goes_on(
    fresh: bool,
    saves: bool | None,
    left: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`saves`: whether the run has, None where an earlier one had."""
    out = tmp_path / "out"
    if saves is None:
        out.mkdir()
        (out / "training.pt").write_text("earlier")

    def interrupted(out: Path, **_: Any) -> None:
        out.mkdir(exist_ok=True)
        if saves:
            (out / "training.pt").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr("sparrow_kernels.training.target.run.train_target", interrupted)
    assert main(["train", "target", "--out", str(out), *["--fresh"][: bool(fresh)]]) == 130
    said = left.replace("OUT", str(out))
    assert error(capsys) == f"sparrow: error: interrupted before it was done ({said})"
