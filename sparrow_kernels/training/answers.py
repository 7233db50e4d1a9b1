"""Answers in the target's own words, in the place of those that data came with.

A draft is worth what it foresees of its target, and a target does not talk as a data set does. The
paper's authors, as those of EAGLE and HiViS, have the target write the answers again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sparrow_kernels.training.dialogues import DataError, Dialogue
from sparrow_kernels.training.encoding import Encoder

_FROM = "from"


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
    """
    done = _done(out)
    left = [each for each in dialogues if each.where not in done]
    with_media = [[each] for each in left if each.media]
    texts = [each for each in left if not each.media]
    # Of like length together: what is shorter is padded, and waits for the longest.
    texts.sort(key=lambda each: len(json.dumps(each.messages)))
    size = batch if encoder.can_pad else 1
    batches = [texts[i : i + size] for i in range(0, len(texts), size)] + with_media
    out.parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(dialogues), initial=len(done), desc="answers", unit="dialogue")
    with bar, out.open("a", encoding="utf-8") as file:
        for number, each in enumerate(batches):
            torch.manual_seed(seed + len(done) + number)
            try:
                answers = _answers(target, encoder, each, max_new_tokens, temperature)
            except DataError as error:
                if on_wrong is None:
                    raise
                on_wrong(error)
                bar.update(len(each))
                continue
            for dialogue, answer in zip(each, answers, strict=True):
                if answer.strip():
                    file.write(_line(dialogue, answer, out.parent) + "\n")
            file.flush()
            bar.update(len(each))
    return out


def _answers(
    target: Any,
    encoder: Encoder,
    dialogues: Sequence[Dialogue],
    max_new_tokens: int,
    temperature: float,
) -> list[str]:
    inputs = encoder.prompts(dialogues)
    moved = {k: v.to(target.device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature}
    with torch.inference_mode():
        output = target.generate(**moved, max_new_tokens=max_new_tokens, **sampling)
    new = output[:, inputs["input_ids"].shape[1] :]
    return encoder.tokenizer.batch_decode(new, skip_special_tokens=True)


def _line(dialogue: Dialogue, answer: str, folder: Path) -> str:
    """The dialogue up to its last answer, with another one; paths from the new file's folder."""
    messages = [_moved(each, folder) for each in dialogue.prompt.messages]
    messages.append({"role": "assistant", "content": answer})
    return json.dumps({"messages": messages, _FROM: dialogue.where}, ensure_ascii=False)


def _moved(message: dict[str, Any], folder: Path) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    parts = [
        {**part, "path": os.path.relpath(part["path"], folder)} if "path" in part else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def _done(out: Path) -> set[str]:
    """Where the lines that are there came from; a line cut while it was written is dropped."""
    if not out.exists():
        return set()
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with out.open("r+b") as file:
            file.truncate(len(whole))
    found = set()
    for line in whole.splitlines():
        try:
            found.add(str(json.loads(line)[_FROM]))
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{out} must be what was written here before, got another file (choose a new name)"
            ) from None
    return found
