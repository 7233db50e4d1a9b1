"""Dialogues on disk: texts, a clip, an image, several turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from family_cases import pixels

from sparrow_kernels.embedded.clips import write_mp4

WORDS = ("red", "green", "slow", "round", "left", "again", "bright", "two")


def said(role: str, *parts: str | dict[str, Any]) -> dict[str, Any]:
    """A turn of text, or of several parts."""
    if len(parts) == 1 and isinstance(parts[0], str):
        return {"role": role, "content": parts[0]}
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": role, "content": content}


def clip(name: str = "clip.mp4", **more: Any) -> dict[str, Any]:
    return {"type": "video", "path": name, **more}


def text_dialogue(seed: int, words: int = 6) -> dict[str, Any]:
    """A question and an answer of some words, others for each seed."""
    rng = np.random.default_rng(seed)
    question, answer = (
        " ".join(WORDS[each] for each in rng.integers(0, len(WORDS), count))
        for count in (int(rng.integers(2, 6)), words)
    )
    return {"messages": [said("user", question + "?"), said("assistant", answer + ".")]}


def clip_dialogue(answer: str = "a red round clip", name: str = "clip.mp4") -> dict[str, Any]:
    return {"messages": [said("user", clip(name), "what is it?"), said("assistant", answer)]}


def write_clip(folder: Path, name: str = "clip.mp4", frames: int = 6) -> Path:
    """A clip of noise, 56 pixels wide, two frames a second."""
    path = folder / name
    write_mp4(path, pixels(frames, seed=frames).permute(0, 2, 3, 1).numpy())
    return path


def write_lines(path: Path, lines: Sequence[Any]) -> Path:
    """One JSON object a line; what is text already is written as it is."""
    text = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path
