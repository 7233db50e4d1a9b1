"""A tiny random pair on disk, and `sparrow generate` with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from decoding_cases import random_pair, video


def written(root: Path) -> Path:
    """A tiny random pair in target/ and draft/, and clip.mp4: 4 frames, 8 visual tokens."""
    from sparrow_kernels.embedded.clips import write_mp4

    target, draft, processor = random_pair()
    target.save_pretrained(root / "target")
    processor.save_pretrained(root / "target")
    draft.save_pretrained(root / "draft")
    write_mp4(root / "clip.mp4", video(4).transpose(0, 2, 3, 1))
    return root


def words(folder: Path, *more: str, clip: Path | None = None) -> list[str]:
    return [
        *("generate", str(clip or folder / "clip.mp4"), "describe the video"),
        *("--target", str(folder / "target"), "--draft", str(folder / "draft"), *more),
    ]


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sparrow: error: ")
    assert captured.err.endswith("\n") and captured.err.count("\n") == 1
    return captured.err


def plain_text(folder: Path, new_tokens: int) -> str:
    """What transformers alone answers."""
    from sparrow_kernels.models.inputs import build_inputs

    target, _, processor = random_pair()
    inputs = build_inputs(processor, "describe the video", [folder / "clip.mp4"])
    ids = target.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    return processor.tokenizer.decode(
        ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
