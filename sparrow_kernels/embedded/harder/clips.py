"""Seeded clips of the harder world, and their frames."""

from __future__ import annotations

import numpy as np

from sparrow_kernels.embedded import clips
from sparrow_kernels.embedded.clips import ClipScript, in_walls
from sparrow_kernels.embedded.harder.world import (
    MAX_PARTS,
    draw_distractors,
    draw_tiles,
    random_sequence,
)
from sparrow_kernels.embedded.world import FRAMES_PER_SECOND, TILE

MIN_PARTS = 3
WALLS = ((1, 40), (2, 64), (4, 96), (6, 80), (8, 120))
_LONGEST_DISTRACTION = 6  # seconds one distractor fills a tile before another does


def random_script(tiles: int, seconds: int, parts: int, seed: int) -> ClipScript:
    """A clip of the given shape with random content."""
    return clips.random_script(
        tiles, seconds, parts, seed, most_parts=MAX_PARTS, draw=random_sequence
    )


def clip_shape(visual_tokens: int) -> tuple[int, int]:
    """(tiles, seconds) for about `visual_tokens` tokens: more seconds first, then larger frames."""
    return clips.clip_shape(visual_tokens, WALLS, MAX_PARTS)


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
    return in_walls(drawn, tiles)


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
