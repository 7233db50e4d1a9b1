"""The target's own answers: written line by line, and gone on with after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dialogue_cases import clip_dialogue, text_dialogue, write_clip, write_lines
from family_cases import tiny

from sparrow_kernels.training.answers import regenerate
from sparrow_kernels.training.dialogues import read_dialogues
from sparrow_kernels.training.encoding import Encoder


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
    cut = tmp_path / "cut.jsonl"
    cut.write_text("\n".join(whole[:3]) + "\n" + whole[3][:40])
    assert sorted(written(tmp_path, cut)) == sorted(whole)
    before = cut.stat().st_mtime_ns
    assert sorted(written(tmp_path, cut)) == sorted(whole)
    assert cut.stat().st_mtime_ns == before, "nothing is left to write"


def test_samples_follow_the_seed(tmp_path: Path) -> None:
    one, same, other = (
        written(tmp_path, tmp_path / f"{name}.jsonl", temperature=1.0, seed=seed)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one == same and one != other


def test_another_file_is_not_written_over(tmp_path: Path) -> None:
    other = write_lines(tmp_path / "other.jsonl", [text_dialogue(1)])
    with pytest.raises(ValueError, match="must be what was written here before"):
        written(tmp_path, other)
    assert json.loads(other.read_text()) == text_dialogue(1)
