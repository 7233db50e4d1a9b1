"""A question about clips, as a target's processor takes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, BinaryIO

import torch
from transformers.video_utils import VideoMetadata

from sparrow_kernels.video.clip import MAX_FRAMES, Clip, read_clip


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
        ValueError: no clip, an empty question, no chat template, and what `read_clip` raises.
    """
    if not clips:
        raise ValueError("clips must hold at least one clip, got none")
    if not question.strip():
        raise ValueError("question must not be empty")
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"processor must have a chat template, got {type(processor).__name__} without one"
            " (save chat_template.jinja beside the model)"
        )
    video_processor = processor.video_processor
    merged = getattr(video_processor, "temporal_patch_size", None) or 2
    most = getattr(video_processor, "max_frames", None) or MAX_FRAMES
    read = [
        clip
        if isinstance(clip, Clip)
        else read_clip(clip, fps, temporal_patch_size=merged, max_frames=most)
        for clip in clips
    ]
    content: list[dict[str, str]] = [{"type": "video"} for _ in read]
    content.append({"type": "text", "text": question})
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(
        text=[prompt],
        videos=[clip.frames for clip in read],
        video_metadata=[
            VideoMetadata(
                total_num_frames=len(clip.frames),
                fps=float(clip.fps),
                width=clip.frames.shape[3],
                height=clip.frames.shape[2],
                duration=float(len(clip.frames) / clip.fps),
                frames_indices=list(range(len(clip.frames))),
            )
            for clip in read
        ],
        do_sample_frames=False,
        return_tensors="pt",
    )
    outputs = dict(inputs)
    if "second_per_grid_ts" in outputs:
        # Computed from float rates by the processor: 2 / (2 / 49) is not 49.
        outputs["second_per_grid_ts"] = torch.tensor([float(merged / clip.fps) for clip in read])
    return outputs
