"""The target's own answers: written line by line, and gone on with after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dialogue_cases import clip_dialogue, text_dialogue, write_clip, write_lines
from family_cases import tiny

from sparrow_kernels.training.data.answers import regenerate
from sparrow_kernels.training.data.dialogues import DataError, read_dialogues
from sparrow_kernels.training.data.encoding import _END_OF_TURN, Encoder


def written(folder: Path, out: Path, **settings: object) -> list[str]:
    target, processor = tiny("qwen2_5_vl")
    path = folder / "data.jsonl"
    if not path.exists():
        write_clip(folder)
        lines = [text_dialogue(seed) for seed in range(5)]
        write_lines(path, [*lines[:2], clip_dialogue(), *lines[2:]])
    asked = {"max_new_tokens": 6, "batch": 2, **settings}
    encoder = Encoder(target, processor)
    return regenerate(target, encoder, read_dialogues(path), out, **asked).read_text().splitlines()  # type: ignore[arg-type]


def test_answers_are_the_targets_own(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    out = tmp_path / "deeper" / "answers.jsonl"
    lines = written(tmp_path, out)
    assert len(lines) == 6
    target, processor = tiny("qwen2_5_vl")
    encoder = Encoder(target, processor)
    for dialogue in read_dialogues(out):  # whose clip is found from there
        inputs = encoder.prompts([dialogue])
        ids = target.generate(**inputs, max_new_tokens=6, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        answer = processor.tokenizer.decode(new, skip_special_tokens=True)
        assert dialogue.messages[-1] == {"role": "assistant", "content": answer}
    clips = [each for each in map(json.loads, lines) if "../clip.mp4" in json.dumps(each)]
    assert len(clips) == 1


def test_a_file_that_was_cut_is_gone_on_with(tmp_path: Path) -> None:
    whole = written(tmp_path, tmp_path / "whole.jsonl")
    for kept, torn in ((3, 40), (0, 5), (2, 0)):
        cut = tmp_path / f"cut-{kept}.jsonl"
        cut.write_text("".join(line + "\n" for line in whole[:kept]) + whole[kept][:torn])
        assert written(tmp_path, cut) == whole
        before = cut.stat().st_mtime_ns
        assert written(tmp_path, cut) == whole
        assert cut.stat().st_mtime_ns == before, "nothing is left to write"


def test_one_that_is_wrong_does_not_cost_those_beside_it(tmp_path: Path) -> None:
    target, processor = tiny("qwen2_5_vl")
    lines = [text_dialogue(seed) for seed in range(5)]
    lines[2]["messages"][0]["content"] = "Why? " * 200
    path = write_lines(tmp_path / "data.jsonl", lines)
    wrong: list[DataError] = []
    asked: dict[str, Any] = {"max_new_tokens": 6, "batch": 5, "on_wrong": wrong.append}
    encoder = Encoder(target, processor, max_length=120)
    out = regenerate(target, encoder, read_dialogues(path), tmp_path / "out.jsonl", **asked)
    assert [str(each).split(":")[1] for each in wrong] == ["3"]
    assert len(out.read_text().splitlines()) == 4


def test_the_order_is_that_of_the_dialogues(tmp_path: Path) -> None:
    lines = [json.loads(line)["messages"][0] for line in written(tmp_path, tmp_path / "a.jsonl")]
    asked = (tmp_path / "data.jsonl").read_text().splitlines()
    assert [isinstance(each["content"], str) for each in lines] == [
        isinstance(json.loads(line)["messages"][0]["content"], str) for line in asked
    ]


def test_samples_follow_the_seed(tmp_path: Path) -> None:
    one, same, other = (
        written(tmp_path, tmp_path / f"{name}.jsonl", temperature=1.0, seed=seed)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one == same and one != other


def test_answers_end_where_training_would_refuse_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, processor = tiny("qwen2_5_vl")
    path = write_lines(tmp_path / "data.jsonl", [text_dialogue(seed) for seed in range(3)])
    encoder = Encoder(target, processor, max_length=80)
    asked: list[tuple[int, int]] = []
    generate = type(target).generate

    def noted(self: Any, **inputs: Any) -> Any:
        asked.append((inputs["input_ids"].shape[1], inputs["max_new_tokens"]))
        return generate(self, **inputs)

    monkeypatch.setattr(type(target), "generate", noted)
    out = tmp_path / "answers.jsonl"
    regenerate(target, encoder, read_dialogues(path), out, max_new_tokens=200, batch=1)
    assert len(asked) == 3
    for prompt, new_tokens in asked:
        assert new_tokens == 80 - prompt - _END_OF_TURN


@pytest.mark.parametrize("end", ["\n", ""])
def test_another_file_is_not_touched(tmp_path: Path, end: str) -> None:
    for content in ('{"messages": []}', "some text\nof somebody", "x"):
        other = tmp_path / "other.jsonl"
        other.write_text(content + end)
        with pytest.raises(ValueError, match="must hold this target's answers"):
            written(tmp_path, other)
        assert other.read_text() == content + end


def test_answers_of_another_kind_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    before = written(tmp_path, out)
    with pytest.raises(ValueError, match="must hold this target's answers to these dialogues"):
        written(tmp_path, out, temperature=0.5)
    assert out.read_text().splitlines() == before
