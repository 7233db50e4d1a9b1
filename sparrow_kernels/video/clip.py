"""Any video file into frames at a fixed rate, one by one, through PyAV.

Frames are taken at a fixed rate by the container's own timestamps, so that a variable frame rate
needs nothing special: sample k is what a player shows at k / fps. Where timestamps restart or jump
see `timeline`. Only sampled frames are converted to RGB and kept.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.video.sampling_rate import sampling_rate
from sparrow_kernels.video.source import VideoSource, clip_path, expected
from sparrow_kernels.video.timeline import LONGEST_SHOWN

__all__ = ["Clip", "TooManyFrames", "clip_path", "read_clip", "sampling_rate"]

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


class TooManyFrames(ValueError):
    """A clip is too long for a rate; at `fps` it is not, as far as it has been read."""

    def __init__(self, message: str, fps: Fraction) -> None:
        super().__init__(message)
        self.fps = fps


class _Shown(NamedTuple):
    """A decoded frame and the seconds, from the start of the clip, at which it appears."""

    second: Fraction
    frame: Any


def read_clip(
    path: str | os.PathLike[str] | BinaryIO,
    fps: float | str | Fraction = 2.0,
    *,
    temporal_patch_size: int = 2,
    max_frames: int = MAX_FRAMES,
    max_frame_pixels: int = MAX_FRAME_PIXELS,
) -> Clip:
    """Sample the video track that a player shows: mp4, webm, mov, mkv, whatever FFmpeg reads.

    A clip too short for two samples gives its first and its last frame.

    Args:
        path: of a file on this machine (no URL), or a file open as binary, which is read from its
            start where it can be rewound, and stays open.
        fps: frames a second to sample, as `sampling_rate` takes it.
        temporal_patch_size: frames that the target merges into one visual token.
        max_frames: most samples.
        max_frame_pixels: larger frames shrink to about so many pixels.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: neither a path nor a file.
        TooManyFrames: more than `max_frames` samples; a `ValueError`.
        ValueError: no video, fewer than two frames, an impossible shape, several frame sizes, or
            damage that stops the decoder.
        ImportError: PyAV is not installed.
    """
    rate = sampling_rate(fps, temporal_patch_size)
    source = VideoSource(path)
    samples = _Samples(source.name, rate, temporal_patch_size, max_frames, max_frame_pixels)
    with source.opened() as stream:
        stated = stream.duration * stream.time_base if stream.duration else Fraction(0)
        if not samples.too_many(stated):
            return samples.of(stream)
        if stream.frames and stated < LONGEST_SHOWN:
            samples.refuse_longer(stated)
        if not source.rewinds:
            return samples.of(stream)
        # Perhaps the container counts a jump in the timestamps, or guesses: read them, undecoded.
        stamps = (
            _stamp(packet.pts if packet.dts is None else packet.dts, packet.time_base)
            for packet in stream.container.demux(stream)
            if packet.size
        )
        samples.refuse_longer(max(expected(stream).seconds(stamps), default=Fraction(0)))
    with source.opened() as stream:
        return samples.of(stream)


@dataclass(frozen=True)
class _Samples:
    """How a clip is sampled."""

    name: str
    rate: Fraction
    merged: int
    max_frames: int
    max_pixels: int

    def of(self, stream: Any) -> Clip:
        frames: list[Tensor] = []
        decoded, last = 0, None
        for shown, until in _with_end(_decode(stream)):
            decoded, last = decoded + 1, shown.frame
            # Every sample time inside [shown.second, until) shows this frame.
            rgb: Tensor | None = None
            while len(frames) / self.rate + _CLOCK_ERROR < until:
                if len(frames) == self.max_frames:
                    self.refuse_longer(until)
                if rgb is None:
                    rgb = _upright_rgb(self.name, stream, shown.frame, self.max_pixels)
                frames.append(rgb)
        if decoded < 2:
            raise ValueError(
                f"clip must have at least 2 frames, got {decoded} in {self.name}"
                + (" (a still picture is no video)" if decoded else "")
            )
        if len(frames) < 2:
            frames.append(_upright_rgb(self.name, stream, last, self.max_pixels))
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError(f"clip must keep one frame size, got several in {self.name}")
        return Clip(torch.stack(frames), self.rate)

    def too_many(self, seconds: Fraction) -> bool:
        return (seconds - _CLOCK_ERROR) * self.rate > self.max_frames

    def refuse_longer(self, seconds: Fraction) -> None:
        """Raise if `seconds` need more samples than allowed, naming a rate at which they do not."""
        if not self.too_many(seconds):
            return
        fewer = Fraction(self.merged, math.ceil(self.merged * seconds / self.max_frames))
        raise TooManyFrames(
            f"clip must have at most {self.max_frames} frames at {float(self.rate):g} fps, got a"
            f" clip of {float(seconds):.1f} s or more: {self.name}"
            f" (sample fewer: --fps {fewer})",
            fewer,
        )


def _decode(stream: Any) -> Iterator[_Shown]:
    """Every frame of a stream, in the order shown, the first at second 0."""
    frames, stamped = itertools.tee(stream.container.decode(stream))
    stamps = (_stamp(frame.pts, frame.time_base) for frame in stamped)
    # In this order a frame waits for its successor's timestamp, and no longer.
    for frame, second in zip(frames, expected(stream).seconds(stamps), strict=True):
        yield _Shown(second, frame)


def _stamp(ticks: int | None, time_base: Fraction | None) -> Fraction | None:
    return None if ticks is None or time_base is None else ticks * time_base


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
        stated = frame.duration * frame.time_base if frame.duration else Fraction(0)
        yield before, before.second + (stated if 0 < stated < LONGEST_SHOWN else gap)


def _upright_rgb(path: str, stream: Any, frame: Any, max_pixels: int) -> Tensor:
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
