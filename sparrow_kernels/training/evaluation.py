"""How well a target answers, measured the way a user meets it: real mp4 files, real `generate`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparrow_kernels.embedded.captions import Exchange, content_accuracy
from sparrow_kernels.embedded.clips import ClipScript, read_mp4, write_mp4
from sparrow_kernels.embedded.worlds import EASY, World, world_of
from sparrow_kernels.training.bars import bar
from sparrow_kernels.training.small_target import clip_inputs

MAX_ANSWER_TOKENS = 240


def answer_clip(model: Any, processor: Any, frames: np.ndarray, fps: float, question: str) -> str:
    """The greedy answer to a question about frames, uint8 [T, H, W, 3]."""
    inputs = clip_inputs(processor, frames, fps, question)
    prompt = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, max_new_tokens=MAX_ANSWER_TOKENS, do_sample=False)
    return processor.tokenizer.decode(output[0, prompt:], skip_special_tokens=True)


def through_mp4(script: ClipScript, world: World = EASY) -> tuple[np.ndarray, float]:
    """A clip's frames as they come back from a file: (uint8 [T, H, W, 3], frames a second)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, world.render(script))
        return read_mp4(path)


def evaluate_budget(
    model: Any,
    processor: Any,
    visual_tokens: int,
    seeds: Iterable[int],
    kinds: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Ask each kind of question once a clip of the target's world. All values are shares of 1,
    `clips` aside.

    content: content words of the captions right at their place; exact: captions right to the last
    character; then one entry for each kind of question, right to the last character.
    kinds: some of the world's; all without.
    """
    world = world_of(model)
    right: dict[str, list[float]] = {}
    clips = [world.make_clip(visual_tokens, seed) for seed in seeds]
    for script in bar(clips, desc=f"{visual_tokens} visual tokens", unit="clip"):
        frames, fps = through_mp4(script, world)
        for exchange in _questions(world, script, kinds or tuple(world.questions)):
            text = answer_clip(model, processor, frames, fps, exchange.question)
            score = float(text == exchange.answer)
            if exchange.kind == "describe":
                right.setdefault("content", []).append(
                    content_accuracy(text, exchange.answer, world.content_words)
                )
                right.setdefault("exact", []).append(score)
            else:
                right.setdefault(exchange.kind, []).append(score)
    shares = {name: float(np.mean(values)) for name, values in right.items()}
    return {"visual_tokens": clips[0].visual_tokens, "clips": len(clips), **shares}


def _questions(world: World, script: ClipScript, kinds: Sequence[str]) -> list[Exchange]:
    rng = np.random.default_rng([script.seed, 41])
    return [world.ask(kind, script, rng) for kind in kinds]
