"""Clips whose every frame tells its own number, for the tests of reading clips."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from sparrow_kernels.video.clip import Clip

# Far enough apart to survive 4:2:0 chroma and quantisation.
_GRAYS = np.arange(10, 250, 6)


def gray_frames(count: int, height: int = 64, width: int = 80) -> list[np.ndarray]:
    """Frame i is flat gray of its own level, so that a decoded frame tells its number."""
    return [np.full((height, width, 3), _GRAYS[i % len(_GRAYS)], np.uint8) for i in range(count)]


def write(
    path: Path,
    frames: list[np.ndarray],
    times_ms: list[int],
    codec: str = "libx264",
    sample_aspect: Fraction | None = None,
    rate: int = 1000,
) -> Path:
    """A file that shows frame i from `times_ms[i]` on, in ticks of 1 / `rate` s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        stream.codec_context.time_base = Fraction(1, rate)
        for picture, time in zip(frames, times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time * rate // 1000, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers(clip: Clip) -> list[int]:
    """Which of `gray_frames` each sample is."""
    levels = clip.frames.float().mean(dim=(1, 2, 3)).numpy()
    return [int(np.abs(_GRAYS - level).argmin()) for level in levels]


def shown_at(times_ms: list[int], second: Fraction) -> int:
    """The definition: the last frame whose time is not after `second`, counted from the first."""
    return max(i for i, time in enumerate(times_ms) if time - times_ms[0] <= second * 1000)
