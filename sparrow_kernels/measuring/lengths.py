"""Which frames of a video give a target about so many visual tokens.

A video is read as densely as a processor takes it: two frames a second, fewer where it is too long
for that. A length is reached by `frames` of these, evenly spaced from the first on: what a frame
costs is counted on a few frames, and corrected by what a number of frames that was tried came to,
for a processor may make frames smaller where there are many.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from sparrow_kernels.models.inputs import FrameRules
from sparrow_kernels.video.clip import Clip, TooManyFrames, read_clip

TOLERANCE = 0.1
"""How far from a length, as a share of it, a clip is still about that long."""
FEWEST = 2
"""Frames of the shortest sampling."""

_TRIES = 6


def default_rate(rules: FrameRules) -> Fraction:
    """Frames a second: 2, or the next rate below that a processor takes."""
    return Fraction(rules.merged, ceil(Fraction(rules.merged, 2)))


def read_whole(path: str | os.PathLike[str], rules: FrameRules, fps: Fraction) -> Clip:
    """A video at `fps`. Raises what `read_clip` does."""
    return read_clip(path, fps, temporal_patch_size=rules.merged, max_frames=rules.most)


def read_densely(path: str | os.PathLike[str], rules: FrameRules) -> Clip:
    """A video at the default rate, or at the highest at which it has no more frames than a
    processor takes. Raises what else `read_clip` does."""
    fps = default_rate(rules)
    while True:
        try:
            return read_whole(path, rules, fps)
        except TooManyFrames as error:
            fps = error.fps


def thinned(clip: Clip, frames: int) -> Clip:
    """`frames` frames of a clip, every n-th from the first on, n as large as there are enough."""
    step = max(1, (len(clip.frames) - 1) // max(1, frames - 1))
    return Clip(clip.frames[::step][:frames], clip.fps / step)


class Reach(NamedTuple):
    """How near to a length a video comes."""

    frames: int
    visual_tokens: int
    step: float
    """Visual tokens between two numbers of frames that can be told apart."""

    def is_about(self, length: int) -> bool:
        """Within the tolerance, or as near as whole steps come."""
        return abs(self.visual_tokens - length) <= max(TOLERANCE * length, self.step / 2)


def nearest(length: int, most: int, merged: int, count: Callable[[int], int]) -> Reach:
    """The number of frames whose visual tokens are nearest to `length`.

    Args:
        most: frames there are, 2 or more.
        merged: frames that count as one.
        count: the visual tokens of a number of frames.
    """
    counted = {frames: count(frames) for frames in {FEWEST, min(most, FEWEST + merged)}}
    low, high = min(counted), max(counted)
    rise = (counted[high] - counted[low]) / max(1, high - low)
    a_frame = rise if rise > 0 else counted[low] / low
    step = a_frame * merged
    for _ in range(_TRIES):
        frames = merged * round(length / max(a_frame * merged, 1e-9))
        frames = min(max(frames, FEWEST), most)
        if frames in counted:
            break
        counted[frames] = count(frames)
        a_frame = counted[frames] / frames
    best = min(counted, key=lambda frames: (abs(counted[frames] - length), frames))
    return Reach(best, counted[best], step)
