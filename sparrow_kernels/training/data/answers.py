"""Answers in the target's own words, in the place of those that data came with.

A draft is worth what it foresees of its target, and a target does not talk as a data set does. The
paper's authors, as those of EAGLE and HiViS, have the target write the answers again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.training.bars import bar
from sparrow_kernels.training.checkpoint import whole
from sparrow_kernels.training.data.cache import weights_mark
from sparrow_kernels.training.data.dialogues import DataError, Dialogue
from sparrow_kernels.training.data.encoding import Encoder

_BEGIN = b'{"key": "'


def regenerate(
    target: Any,
    encoder: Encoder,
    dialogues: Sequence[Dialogue],
    out: Path,
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    batch: int = 16,
    seed: int = 0,
    on_wrong: Callable[[DataError], None] | None = None,
) -> Path:
    """Write `dialogues` to `out`, the last turn of each by `target`; lines there already stay.

    Args:
        temperature: 0 for greedy.
        batch: dialogues at once, of those without a clip.
        on_wrong: called for a dialogue that cannot be used, which is left out; None raises.

    Raises:
        ValueError: `out` holds something else than this target's answers to these dialogues.
    """
    asked = f"{weights_mark(target)} {encoder.about} {max_new_tokens} {temperature} {seed}"
    keys = {_key(each, asked): each for each in dialogues}
    done = _done(out, set(keys))
    left = [key for key in keys if key not in done]
    with_media = [[key] for key in left if keys[key].media]
    texts = [key for key in left if not keys[key].media]
    # Of like length together: what is shorter is padded, and waits for the longest.
    texts.sort(key=lambda key: len(json.dumps(keys[key].messages)))
    size = batch if encoder.can_pad else 1
    batches = [texts[i : i + size] for i in range(0, len(texts), size)] + with_media
    out.parent.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"desc": "answers", "unit": "dialogue", "initial": len(done)}
    with (
        bar(total=len(keys), logged=True, **about) as shown,
        out.open("a", encoding="utf-8") as file,
    ):
        waiting = deque(batches)
        while waiting:
            each = waiting.popleft()
            torch.manual_seed(seed + int(each[0][:12], 16))
            try:
                inputs = encoder.prompts([keys[key] for key in each])
                answers = _answers(target, encoder, inputs, max_new_tokens, temperature)
            except DataError as error:
                if on_wrong is None:
                    raise
                if len(each) > 1:  # one of them is wrong, and the others can be answered
                    waiting.extendleft([key] for key in reversed(each))
                    continue
                on_wrong(error)
                shown.update(1)
                continue
            for key, answer in zip(each, answers, strict=True):
                if answer.strip():
                    file.write(_line(key, keys[key], answer, out.parent) + "\n")
            file.flush()
            shown.update(len(each))
    if left:
        _put_in_order(out, list(keys))
    return out


def _answers(
    target: Any, encoder: Encoder, inputs: dict[str, Any], max_new_tokens: int, temperature: float
) -> list[str]:
    moved = {k: v.to(target.device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    length = inputs["input_ids"].shape[1]
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature}
    room = encoder.room_behind(length)
    new_tokens = max_new_tokens if room is None else min(max_new_tokens, room)
    with torch.inference_mode():
        output = target.generate(**moved, max_new_tokens=new_tokens, **sampling)
    return encoder.tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)


def _key(dialogue: Dialogue, asked: str) -> str:
    """Says which dialogue was answered by whom, and how."""
    known = f"{asked}\n{dialogue.place}\n{dialogue.prompt.mark}"
    return hashlib.sha256(known.encode()).hexdigest()[:24]


def _line(key: str, dialogue: Dialogue, answer: str, folder: Path) -> str:
    """The dialogue up to its last answer, with another one; paths from the new file's folder."""
    messages = [_moved(each, folder) for each in dialogue.prompt.messages]
    messages.append({"role": "assistant", "content": answer})
    return json.dumps({"key": key, "messages": messages}, ensure_ascii=False)


def _moved(message: dict[str, Any], folder: Path) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    parts = [
        {**part, "path": os.path.relpath(part["path"], folder)} if "path" in part else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def _done(out: Path, wanted: set[str]) -> set[str]:
    """The keys of the lines that are there; a line cut while it was written is dropped.

    Nothing is touched unless all of the file was written here.
    """
    if not out.exists():
        return set()
    content = out.read_bytes()
    end = content.rfind(b"\n") + 1
    whole, torn = content[:end], content[end:]
    found = {_key_of(line) for line in whole.splitlines()}
    is_ours = torn.startswith(_BEGIN) or _BEGIN.startswith(torn)
    if not found <= wanted or not is_ours:
        raise ValueError(
            f"{out} must hold this target's answers to these dialogues, got something else (choose"
            " a new name)"
        )
    if torn:
        with out.open("r+b") as file:
            file.truncate(end)
    return {str(key) for key in found}


def _key_of(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["key"])
    except (ValueError, KeyError, TypeError):
        return None


def _put_in_order(out: Path, keys: list[str]) -> None:
    """In the order of the dialogues: what is held out should not be the shortest texts."""
    lines = {_key_of(line): line for line in out.read_bytes().splitlines(keepends=True)}
    with whole(out) as fresh:
        fresh.write_bytes(b"".join(lines[key] for key in keys if key in lines))
