"""Seeded clips: a script that says what is shown when, its frames, and its mp4 file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from sparrow_kernels.embedded.world import (
    FRAMES_PER_SECOND,
    MAX_PARTS,
    TILE,
    draw_distractors,
    draw_tiles,
    random_attributes,
)

MIN_PARTS = 4
TOKENS_PER_TILE = 4  # 4x4 patches of 14 pixels, merged 2x2, for every two frames (one second)

# Tiles along an edge, and the most seconds a clip of that size is given before frames grow.
WALLS = ((1, 40), (2, 64), (4, 128), (6, 220))


@dataclass(frozen=True)
class Part:
    """One object on one background: indices in the order of ATTRIBUTES, and a duration."""

    attributes: tuple[int, ...]
    seconds: int


@dataclass(frozen=True)
class ClipScript:
    """Everything a clip shows. `tiles` is the edge of the wall of tiles each frame consists of."""

    seed: int
    tiles: int
    parts: tuple[Part, ...]
    distractor_rate: float = 0.0

    @property
    def seconds(self) -> int:
        return sum(part.seconds for part in self.parts)

    @property
    def frames(self) -> int:
        return self.seconds * FRAMES_PER_SECOND

    @property
    def visual_tokens(self) -> int:
        return self.seconds * TOKENS_PER_TILE * self.tiles**2


def split_seconds(seconds: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Random whole durations, [parts], that sum to `seconds`; none below half the mean."""
    if seconds < parts:
        raise ValueError(f"a clip of {parts} parts needs {parts} seconds or more, got {seconds}")
    floor = max(1, seconds // (2 * parts))
    spare = seconds - floor * parts
    cuts = np.sort(rng.integers(0, spare + 1, parts - 1))
    return floor + np.diff(cuts, prepend=0, append=spare)


def random_script(
    tiles: int,
    seconds: int,
    parts: int,
    seed: int,
    *,
    most_parts: int = MAX_PARTS,
    draw: Callable[[int, np.random.Generator], np.ndarray] = random_attributes,
) -> ClipScript:
    """A clip of the given shape with random content; `draw` gives its parts' attributes."""
    if not 1 <= parts <= most_parts:
        raise ValueError(f"parts must be 1..{most_parts}, got {parts}")
    rng = np.random.default_rng([seed, tiles, seconds, parts])
    durations = split_seconds(seconds, parts, rng)
    attributes = draw(parts, rng)
    rate = 0.0 if tiles == 1 else float(rng.uniform(0.0, 0.3))
    shown = tuple(
        Part(tuple(int(a) for a in row), int(s))
        for row, s in zip(attributes, durations, strict=True)
    )
    return ClipScript(seed, tiles, shown, rate)


def clip_shape(
    visual_tokens: int, walls: Sequence[tuple[int, int]] = WALLS, most_parts: int = MAX_PARTS
) -> tuple[int, int]:
    """(tiles, seconds) for about `visual_tokens` tokens: more seconds first, then larger frames."""
    if visual_tokens < TOKENS_PER_TILE * most_parts:
        raise ValueError(
            f"visual_tokens must be {TOKENS_PER_TILE * most_parts} or more, got {visual_tokens}"
        )
    for tiles, most_seconds in walls:
        seconds = round(visual_tokens / (TOKENS_PER_TILE * tiles**2))
        if seconds <= most_seconds:
            return tiles, seconds
    tiles, most_seconds = walls[-1]
    most = TOKENS_PER_TILE * tiles**2 * most_seconds
    raise ValueError(f"visual_tokens must be at most {most}, got {visual_tokens}")


def make_clip(visual_tokens: int, seed: int) -> ClipScript:
    """The clip of a seed at a budget; whole seconds give the nearest `visual_tokens`."""
    tiles, seconds = clip_shape(visual_tokens)
    parts = int(np.random.default_rng([seed, 7]).integers(MIN_PARTS, MAX_PARTS + 1))
    return random_script(tiles, seconds, parts, seed)


def render(script: ClipScript) -> np.ndarray:
    """Frames, uint8 [T, H, W, 3] with H = W = TILE * tiles, at FRAMES_PER_SECOND."""
    rng = np.random.default_rng([script.seed, script.tiles, 1])
    return np.concatenate([_render_part(script, k, rng) for k in range(len(script.parts))])


def _render_part(script: ClipScript, number: int, rng: np.random.Generator) -> np.ndarray:
    """The frames of one part. Every tile shows the scene with its own jitter, or a distractor."""
    part, tiles = script.parts[number], script.tiles
    frames, wall = part.seconds * FRAMES_PER_SECOND, tiles * tiles
    count = frames * wall
    drawn = draw_tiles(
        np.tile(np.array(part.attributes), (count, 1)),
        np.full(count, number),
        np.arange(frames).repeat(wall),
        rng.integers(-1, 2, (count, 2)),
    ).reshape(frames, wall, TILE, TILE, 3)
    hidden = rng.random(wall) < script.distractor_rate
    hidden[rng.integers(wall)] = False  # one tile at least shows the scene
    if hidden.any():
        drawn[:, hidden] = draw_distractors(int(hidden.sum()), frames, rng).swapaxes(0, 1)
    return in_walls(drawn, tiles)


def in_walls(drawn: np.ndarray, tiles: int) -> np.ndarray:
    """Tiles [T, tiles**2, TILE, TILE, 3] side by side, [T, tiles * TILE, tiles * TILE, 3]."""
    grid = drawn.reshape(-1, tiles, tiles, TILE, TILE, 3).swapaxes(2, 3)
    return grid.reshape(-1, tiles * TILE, tiles * TILE, 3)


def write_mp4(path: str | Path, frames: np.ndarray) -> None:
    """Encode frames, uint8 [T, H, W, 3], `FRAMES_PER_SECOND`, as H.264 with 4:2:0 chroma, what
    players expect."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(FRAMES_PER_SECOND), options={"crf": "18", "preset": "veryfast"}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def read_mp4(path: str | Path) -> tuple[np.ndarray, float]:
    """Decode every frame: (uint8 [T, H, W, 3], frames a second)."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        rate = stream.average_rate
    if not frames or rate is None:
        raise ValueError(f"{path} holds no video frames")
    return np.stack(frames), float(rate)
