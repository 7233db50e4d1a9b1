"""Any video file into what a Vid-LLM's processor wants, frame by frame, through PyAV.

Frames are taken at a fixed rate by the container's own timestamps, so that a variable frame rate
needs nothing special: sample k is what a player shows at k / fps. Only sampled frames are
converted to RGB and kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_FRAMES = 768
MAX_FRAME_PIXELS = 768 * 28 * 28
"""Larger frames shrink while they are decoded. This is the most pixels a frame that Qwen's own
loader keeps, and with `MAX_FRAMES` it bounds the frames of a clip at 1.4 GB."""
MAX_ASPECT = 200  # what transformers' processors take

# Containers round timestamps to their clock, such as milliseconds in webm.
_CLOCK_ERROR = Fraction(1, 1000)


@dataclass(frozen=True)
class Clip:
    """Frames sampled at a fixed rate."""

    frames: Tensor
    """`[T, 3, H, W]` uint8 RGB, upright, with square pixels; T is at least 2."""
    fps: Fraction
    """Frames a second of `frames`, not of the file."""


class _Shown(NamedTuple):
    """A decoded frame and the seconds, from the start of the clip, at which it appears."""

    second: Fraction
    frame: Any


def sampling_rate(fps: float | str | Fraction, temporal_patch_size: int = 2) -> Fraction:
    """The exact rate for `fps`, such as 2, 1, 0.5 or "2/3".

    A Vid-LLM merges `temporal_patch_size` frames. transformers takes the seconds they span as a
    whole number in some releases and as a fraction in others, so only whole ones mean the same
    everywhere.

    Raises:
        ValueError: `fps` is no positive number, or merged frames would span part of a second.
    """
    try:
        rate = Fraction(str(fps))
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    seconds = temporal_patch_size / rate if rate > 0 else Fraction(0)
    if rate <= 0 or seconds.denominator != 1:
        spans = [f"{temporal_patch_size / span:g}" for span in (1, 2, 4, 5)]
        raise ValueError(
            f"fps must be {temporal_patch_size} divided by a whole number, got {fps}"
            f" (such as {', '.join(spans)})"
        )
    return rate


def read_clip(
    path: str | Path,
    fps: float | str | Fraction = 2.0,
    *,
    temporal_patch_size: int = 2,
    max_frames: int = MAX_FRAMES,
    max_frame_pixels: int = MAX_FRAME_PIXELS,
) -> Clip:
    """Sample the first video stream of a file: mp4, webm, mov, mkv, whatever FFmpeg reads.

    A clip too short for two samples gives its first and its last frame.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no video, fewer than two frames, more than `max_frames` samples, an impossible
            shape, or damage that stops the decoder.
        ImportError: PyAV is not installed.
    """
    rate = sampling_rate(fps, temporal_patch_size)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"clip {path} does not exist")
    if not path.is_file():
        raise ValueError(f"clip must be a video file, got {path}, which is no file")
    frames: list[Tensor] = []
    decoded, last = 0, None
    with _opened(path) as stream:
        _refuse_longer(path, _seconds(stream), rate, temporal_patch_size, max_frames)
        for shown, until in _with_end(_decode(stream)):
            decoded, last = decoded + 1, shown.frame
            # Every sample time inside [shown.second, until) shows this frame.
            rgb: Tensor | None = None
            while len(frames) / rate + _CLOCK_ERROR < until:
                if len(frames) == max_frames:
                    _refuse_longer(path, until, rate, temporal_patch_size, max_frames)
                if rgb is None:
                    rgb = _upright_rgb(path, stream, shown.frame, max_frame_pixels)
                frames.append(rgb)
        if decoded < 2:
            raise ValueError(
                f"clip must have at least 2 frames, got {decoded} in {path}"
                + (" (a still picture is no video)" if decoded else "")
            )
        if len(frames) < 2:
            frames.append(_upright_rgb(path, stream, last, max_frame_pixels))
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"clip must keep one frame size, got several in {path}")
    return Clip(torch.stack(frames), rate)


def build_inputs(
    processor: Any,
    question: str,
    clips: Sequence[Clip | str | Path],
    *,
    fps: float | str | Fraction = 2.0,
) -> dict[str, Any]:
    """Processor outputs for a question about one or more clips, ready for `generate`.

    Args:
        processor: the target's own, with a chat template.
        clips: files, sampled here at `fps`, or clips already read. They come before the question.

    Raises:
        ValueError: no clip, an empty question, no chat template, and what `read_clip` raises.
    """
    from transformers.video_utils import VideoMetadata

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


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The first video stream of a file; FFmpeg's errors inside the block become ours."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "reading a video needs PyAV, which is not installed"
            " (pip install 'sparrow_kernels[video]')",
            name="av",
        ) from error

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"clip must have a video stream, got none in {path}")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield stream
    except av.EOFError as error:  # before anything could be decoded
        raise ValueError(f"clip must have at least 2 frames, got 0 in {path}") from error
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"clip {path} cannot be read as a video: {reason}") from error


def _decode(stream: Any) -> Iterator[_Shown]:
    """Every frame of a stream, in the order shown, the first at second 0."""
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    first: Fraction | None = None
    for number, frame in enumerate(stream.container.decode(stream)):
        if frame.pts is None or frame.time_base is None:
            second = number / rate
        else:
            second = frame.pts * frame.time_base
        first = second if first is None else first
        yield _Shown(second - first, frame)


def _seconds(stream: Any) -> Fraction:
    """How long the container says the stream is; 0 where it does not say."""
    return stream.duration * stream.time_base if stream.duration else Fraction(0)


def _with_end(shown: Iterator[_Shown]) -> Iterator[tuple[_Shown, Fraction]]:
    """Each frame with the second at which the next one replaces it."""
    before: _Shown | None = None
    gap = Fraction(0)
    for current in shown:
        if before is not None:
            gap = current.second - before.second
            yield before, current.second
        before = current
    if before is not None:
        frame = before.frame
        duration = frame.duration * frame.time_base if frame.duration else gap
        yield before, before.second + duration


def _upright_rgb(path: Path, stream: Any, frame: Any, max_pixels: int) -> Tensor:
    """`[3, H, W]` uint8: square pixels, rotated as the file says, at most `max_pixels`."""
    from av.video.reformatter import Interpolation

    width, height = frame.width, frame.height
    if stream.sample_aspect_ratio:
        width = max(1, round(width * stream.sample_aspect_ratio))
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"clip must have sides of at most 1 to {MAX_ASPECT}, got {width}x{height} in {path}"
        )
    shrink = min(1.0, (max_pixels / (width * height)) ** 0.5)
    if shrink < 1:
        width, height = max(1, int(width * shrink)), max(1, int(height * shrink))
    rgb = frame.reformat(width, height, "rgb24", interpolation=Interpolation.AREA).to_ndarray()
    turns = round(frame.rotation / 90) % 4  # counterclockwise, as torch.rot90 turns
    return torch.rot90(torch.from_numpy(rgb), turns).permute(2, 0, 1)


def _refuse_longer(
    path: Path, seconds: Fraction, rate: Fraction, merged: int, max_frames: int
) -> None:
    """Raise if `seconds` need more samples than allowed, naming a rate at which they do not."""
    if (seconds - _CLOCK_ERROR) * rate <= max_frames:
        return
    span = math.ceil(merged * seconds / max_frames)
    raise ValueError(
        f"clip must have at most {max_frames} frames at {float(rate):g} fps, got a clip of"
        f" {float(seconds):.1f} s or more: {path} (sample fewer: --fps {Fraction(merged, span)})"
    )
