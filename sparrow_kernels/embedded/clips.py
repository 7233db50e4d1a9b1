"""Seeded clips: a script that says what is shown when, its frames, and its mp4 file."""

from __future__ import annotations

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
    random_sequence,
)

MIN_PARTS = 4
TOKENS_PER_TILE = 4  # 4x4 patches of 14 pixels, merged 2x2, for every two frames (one second)
MAX_SECONDS = 256

# Tiles along an edge, and the most seconds a clip of that size is given before frames grow.
_WALLS = ((1, 40), (2, 64), (4, 96), (6, 80), (8, 120))
_LONGEST_DISTRACTION = 6  # seconds one distractor fills a tile before another does


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


def random_script(tiles: int, seconds: int, parts: int, seed: int) -> ClipScript:
    """A clip of the given shape with random content."""
    if not 1 <= parts <= MAX_PARTS:
        raise ValueError(f"parts must be 1..{MAX_PARTS}, got {parts}")
    rng = np.random.default_rng([seed, tiles, seconds, parts])
    durations = split_seconds(seconds, parts, rng)
    attributes = random_sequence(parts, rng)
    rate = 0.0 if tiles == 1 else float(rng.uniform(0.0, 0.3))
    shown = tuple(
        Part(tuple(int(a) for a in row), int(s))
        for row, s in zip(attributes, durations, strict=True)
    )
    return ClipScript(seed, tiles, shown, rate)


def clip_shape(visual_tokens: int) -> tuple[int, int]:
    """(tiles, seconds) for about `visual_tokens` tokens: more seconds first, then larger frames."""
    if visual_tokens < TOKENS_PER_TILE * MAX_PARTS:
        raise ValueError(
            f"visual_tokens must be {TOKENS_PER_TILE * MAX_PARTS} or more, got {visual_tokens}"
        )
    for tiles, most_seconds in _WALLS:
        seconds = round(visual_tokens / (TOKENS_PER_TILE * tiles**2))
        if seconds <= most_seconds:
            return tiles, seconds
    tiles, most_seconds = _WALLS[-1]
    most = TOKENS_PER_TILE * tiles**2 * most_seconds
    raise ValueError(f"visual_tokens must be at most {most}, got {visual_tokens}")


def make_clip(visual_tokens: int, seed: int) -> ClipScript:
    """The clip of a seed at a budget; whole seconds give the nearest `visual_tokens`."""
    tiles, seconds = clip_shape(visual_tokens)
    parts = int(np.random.default_rng([seed, 7]).integers(MIN_PARTS, MAX_PARTS + 1))
    return random_script(tiles, seconds, parts, seed)


def hidden_tiles(script: ClipScript) -> np.ndarray:
    """Which tiles of the wall show distractors all through the clip, bool [tiles, tiles]."""
    rng = np.random.default_rng([script.seed, script.tiles, 2])
    hidden = rng.random((script.tiles, script.tiles)) < script.distractor_rate
    hidden[tuple(rng.integers(0, script.tiles, 2))] = False  # one tile at least shows the scene
    return hidden


def distraction_seconds(seconds: int, rng: np.random.Generator) -> list[int]:
    """How long each distractor is shown, summing to `seconds`. They heed no part's end."""
    held: list[int] = []
    while sum(held) < seconds:
        most = min(_LONGEST_DISTRACTION, seconds - sum(held))
        held.append(int(rng.integers(1, most + 1)))
    return held


def render(script: ClipScript) -> np.ndarray:
    """Frames, uint8 [T, H, W, 3] with H = W = TILE * tiles, at FRAMES_PER_SECOND."""
    rng = np.random.default_rng([script.seed, script.tiles, 1])
    tiles, wall = script.tiles, script.tiles**2
    drawn = np.empty((script.frames, wall, TILE, TILE, 3), np.uint8)
    start = 0
    for part in script.parts:
        end = start + part.seconds * FRAMES_PER_SECOND
        drawn[start:end] = _scene_tiles(part.attributes, np.arange(start, end), wall, rng)
        start = end
    hidden = hidden_tiles(script).ravel()
    if hidden.any():
        drawn[:, hidden] = np.concatenate(
            [
                draw_distractors(int(hidden.sum()), held * FRAMES_PER_SECOND, rng).swapaxes(0, 1)
                for held in distraction_seconds(script.seconds, rng)
            ]
        )
    grid = drawn.reshape(-1, tiles, tiles, TILE, TILE, 3).swapaxes(2, 3)
    return grid.reshape(-1, tiles * TILE, tiles * TILE, 3)


def _scene_tiles(
    attributes: tuple[int, ...], frames: np.ndarray, wall: int, rng: np.random.Generator
) -> np.ndarray:
    """One part on every tile of a wall, [frames, wall, TILE, TILE, 3].

    Every tile has its own jitter, another one each second: within a second what moves, moves.
    """
    count = len(frames) * wall
    jitter = rng.integers(-1, 2, (len(frames) // FRAMES_PER_SECOND, wall, 2))
    return draw_tiles(
        np.tile(np.array(attributes), (count, 1)),
        frames.repeat(wall),
        jitter.repeat(FRAMES_PER_SECOND, axis=0).reshape(count, 2),
    ).reshape(len(frames), wall, TILE, TILE, 3)


def write_mp4(path: str | Path, frames: np.ndarray, fps: int = FRAMES_PER_SECOND) -> None:
    """Encode frames, uint8 [T, H, W, 3], as H.264 with 4:2:0 chroma, what players expect."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps), options={"crf": "18", "preset": "veryfast"}
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
