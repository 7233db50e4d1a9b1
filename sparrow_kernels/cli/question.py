"""A question ready to be decoded: models loaded, clips read, all of it where it is to run."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from sparrow_kernels import SparrowDecoder, backend
from sparrow_kernels.cli.terminal import ProgressBar
from sparrow_kernels.embedded.captions import words_not_taught
from sparrow_kernels.embedded.recognition import is_of_the_world
from sparrow_kernels.embedded.worlds import EASY
from sparrow_kernels.measuring.trace_page.film import Frame, film_of
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.inputs import build_batch, check_chat_template, clip_for
from sparrow_kernels.models.pair import check_embedded_draft, draft_for, load_target
from sparrow_kernels.models.quiet import quiet_transformers


class Question(NamedTuple):
    """A question about each of some clips."""

    decoder: SparrowDecoder
    processor: Any
    inputs: dict[str, Any]
    settings: dict[str, Any]
    """Further keywords of `generate`."""
    visual_tokens: list[int]
    """Of each clip."""
    films: list[list[Frame]]
    """Some frames of each clip, where a trace is to show them."""
    unlike: list[str]
    """Clips that the embedded target cannot know."""
    not_taught: list[str]
    """Words of the question that it cannot know."""

    def text(self, sequence: Any) -> str:
        """The new text of a sequence `[prompt + new]`."""
        tokens = sequence[self.inputs["input_ids"].shape[1] :]
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True)

    def texts(self, result: Any) -> list[str]:
        """The answers of a `SparrowOutput`, without what stands behind the shorter ones."""
        prompt = self.inputs["input_ids"].shape[1]
        each = zip(result.sequences, result.stats.rows, strict=True)
        return [self.text(sequence[: prompt + row.new_tokens]) for sequence, row in each]


def prepare(arguments: argparse.Namespace, clips: list[str], bar: ProgressBar) -> Question:
    """Load the models and read the clips."""
    decoder, processor = load_decoder(arguments, bar)
    target, device = decoder.target, decoder.target.device
    bar.note("reading the clip" if len(clips) == 1 else f"reading {len(clips)} clips")
    check_chat_template(processor)
    read = [clip_for(processor, clip, arguments.fps) for clip in clips]
    films = [film_of(clip) for clip in read] if arguments.trace else []
    unlike, not_taught = [], []
    if arguments.target is None and arguments.world in (None, EASY.name):
        each = zip(clips, read, strict=True)
        unlike = [name for name, clip in each if not is_of_the_world(clip.frames.numpy())]
        not_taught = words_not_taught(arguments.question)
    with quiet_transformers():
        inputs = build_batch(processor, arguments.question, read, fps=arguments.fps)
    del read
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    visual_tokens = Parts(target).visual_mask(inputs["input_ids"]).sum(dim=1).tolist()
    settings = _settings(arguments, target, inputs["input_ids"].shape[1])
    return Question(decoder, processor, inputs, settings, visual_tokens, films, unlike, not_taught)


def load_decoder(arguments: argparse.Namespace, bar: ProgressBar) -> tuple[SparrowDecoder, Any]:
    """The target and draft of `add_target_arguments`, and the target's processor."""
    device = device_of(arguments.device)
    bar.note("loading the models")
    target: Any
    with quiet_transformers():
        if arguments.target is not None and arguments.draft is None:
            check_embedded_draft(arguments.target)
        dtype = dtype_of(arguments.dtype, arguments.target is None, device)
        world = arguments.world or "easy"
        target, processor = load_target(arguments.target, dtype=dtype, world=world)
        target.to(device)
        how = {"positions": arguments.positions, "sees_clip": arguments.sees_clip}
        draft = draft_for(target, arguments.draft, **how)
        return SparrowDecoder(target, draft, arguments.tree), processor


def asked_backend(name: str | None) -> AbstractContextManager[Any]:
    """What `--attn` asks for: as in `SPARROW_BACKEND`, but for this command."""
    return nullcontext() if name is None else backend(name)


def sampling(temperature: float) -> dict[str, Any]:
    """Keywords of `generate` for `--temperature`."""
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature}
    return {"do_sample": False}


def device_of(asked: str) -> torch.device:
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return torch.device("cuda" if available else "cpu")
    device = torch.device(asked)
    if device.type == "cuda" and (device.index or 0) >= available:
        seen = "no GPU" if available == 0 else f"{available} of them, cuda:0 first"
        raise ValueError(
            f"--device must be one that torch sees, got {asked}, and it sees {seen}"
            " (sparrow env lists them; --device cpu is always there)"
        )
    return device


def dtype_of(asked: str, embedded: bool, device: torch.device) -> str:
    """The embedded target is saved in float16 to be small, and made to run in float32."""
    if asked != "auto":
        return asked
    return "float32" if embedded or device.type == "cpu" else "auto"


def _settings(arguments: argparse.Namespace, target: Any, prompt_length: int) -> dict[str, Any]:
    """Keywords for `generate`, after checking that the prompt and some text fit the context."""
    context = target.config.get_text_config().max_position_embeddings
    if prompt_length >= context:
        raise ValueError(
            f"prompt must be shorter than the model's context of {context} tokens, got"
            f" {prompt_length} (a shorter clip, or fewer frames: --fps {arguments.fps / 2})"
        )
    new_tokens = min(arguments.max_new_tokens, context - prompt_length)
    return {"max_new_tokens": new_tokens, **sampling(arguments.temperature)}
