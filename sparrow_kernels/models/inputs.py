"""A question about clips, as a target's processor takes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import torch
from transformers.video_utils import VideoMetadata

from sparrow_kernels.video.clip import MAX_FRAMES, Clip, read_clip


class FrameRules(NamedTuple):
    """How a processor takes the frames of a clip."""

    merged: int
    """Frames that one visual token may span; a rate is this divided by whole seconds."""
    packs: bool
    """Whether it does merge them."""
    most: int
    """Frames that a clip may have."""


def frame_rules(processor: Any) -> FrameRules:
    """What a processor says of itself.

    Raises:
        ValueError: it takes no clips.
    """
    video_processor = getattr(processor, "video_processor", None)
    if video_processor is None:
        raise ValueError(
            f"processor must take clips, got {type(processor).__name__} without a video processor"
        )
    merged = getattr(video_processor, "temporal_patch_size", None)
    most = getattr(video_processor, "max_frames", None) or MAX_FRAMES
    return FrameRules(merged or 2, merged is not None, most)


def build_inputs(
    processor: Any,
    question: str,
    clips: Sequence[Clip | str | os.PathLike[str] | BinaryIO],
    *,
    fps: float | str | Fraction = 2.0,
) -> dict[str, Any]:
    """Processor outputs for a question about one or more clips, ready for `generate`.

    Args:
        processor: the target's own, with a chat template.
        clips: paths or open files, sampled here at `fps`, or clips already read. They come before
            the question.

    Raises:
        TypeError: `clips` is one clip, not a sequence of them; `question` is no text.
        ValueError: no clip, an empty question, no chat template, and what `read_clip` raises.
    """
    _check_several(clips)
    return _processed(processor, question, [clips], fps)


def build_batch(
    processor: Any,
    question: str,
    clips: Sequence[Clip | str | os.PathLike[str] | BinaryIO],
    *,
    fps: float | str | Fraction = 2.0,
) -> dict[str, Any]:
    """The same for the same question about each of several clips: a prompt a clip, left-padded.

    Raises:
        ValueError: what `build_inputs` raises, and clips of several lengths where the processor
            stacks them.
    """
    _check_several(clips)
    return _processed(processor, question, [[clip] for clip in clips], fps)


def _check_several(clips: Any) -> None:
    if isinstance(clips, (str, bytes, os.PathLike, Clip)) or hasattr(clips, "read"):
        raise TypeError(f"clips must be a sequence of clips, got one {type(clips).__name__}")


def _processed(
    processor: Any,
    question: str,
    prompts: Sequence[Sequence[Clip | str | os.PathLike[str] | BinaryIO]],
    fps: float | str | Fraction,
) -> dict[str, Any]:
    """Outputs for a question about the clips of each of `prompts`."""
    if not isinstance(question, str):
        raise TypeError(f"question must be text, got {type(question).__name__}")
    if not prompts or not all(prompts):
        raise ValueError("clips must hold at least one clip, got none")
    if not question.strip():
        raise ValueError("question must not be empty")
    check_chat_template(processor)
    read = [clip_for(processor, clip, fps) for clips in prompts for clip in clips]
    if len(prompts) > 1:
        _check_stack(processor, read)
    texts = [_chat(processor, question, len(clips)) for clips in prompts]
    return processor_outputs(processor, texts, read)


def check_chat_template(processor: Any) -> None:
    """Raise `ValueError` where `processor`, or a tokenizer in its place, has none."""
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"processor must have a chat template, got {type(processor).__name__} without one"
            " (save chat_template.jinja beside the model)"
        )


def clip_for(
    processor: Any,
    clip: Clip | str | os.PathLike[str] | BinaryIO,
    fps: float | str | Fraction,
) -> Clip:
    """A clip as `processor` takes it, sampled at `fps` where it has not been read yet."""
    if isinstance(clip, Clip):
        return clip
    rules = frame_rules(processor)
    return read_clip(clip, fps, temporal_patch_size=rules.merged, max_frames=rules.most)


def processor_outputs(
    processor: Any, texts: Sequence[str], clips: Sequence[Clip], images: Sequence[Any] = ()
) -> dict[str, Any]:
    """Outputs for prompts that the chat template has written, and their clips in order.

    Args:
        processor: the target's own; its tokenizer where it reads text alone.
        images: as PIL has them.
    """
    media: dict[str, Any] = {}
    if clips:
        media = {
            "videos": [clip.frames for clip in clips],
            "video_metadata": [
                VideoMetadata(
                    total_num_frames=len(clip.frames),
                    fps=float(clip.fps),
                    width=clip.frames.shape[3],
                    height=clip.frames.shape[2],
                    duration=float(len(clip.frames) / clip.fps),
                    frames_indices=list(range(len(clip.frames))),
                )
                for clip in clips
            ],
            "do_sample_frames": False,
        }
    if images:
        media["images"] = list(images)
    outputs = dict(
        processor(
            text=list(texts),
            **media,
            return_tensors="pt",
            **({"padding": True, "padding_side": "left"} if len(texts) > 1 else {}),
        )
    )
    if "second_per_grid_ts" in outputs:
        # Computed from float rates by the processor: 2 / (2 / 49) is not 49.
        merged = frame_rules(processor).merged
        outputs["second_per_grid_ts"] = torch.tensor([float(merged / clip.fps) for clip in clips])
    return outputs


def _chat(processor: Any, question: str, clips: int) -> str:
    content: list[dict[str, str]] = [{"type": "video"} for _ in range(clips)]
    content.append({"type": "text", "text": question})
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


def _check_stack(processor: Any, clips: Sequence[Clip]) -> None:
    """Raise where clips differ in length that a processor, like LLaVA-OneVision's, stacks."""
    lengths = [len(clip.frames) for clip in clips]
    if not frame_rules(processor).packs and len(set(lengths)) > 1:
        raise ValueError(
            f"clips of a batch must have one number of frames for"
            f" {type(processor.video_processor).__name__}, got {', '.join(map(str, lengths))}"
            " (ask about them one by one)"
        )
