"""Which specimen of the pool of tiles each tile of a clip shows: clips without their pixels.

A pool holds every scene of a world in `views` specimens of one second each, scene after scene,
then distractors (see `training.target.tile_pool`).
"""

from __future__ import annotations

from itertools import product

import numpy as np

from sparrow_kernels.embedded import world as easy
from sparrow_kernels.embedded.clips import ClipScript
from sparrow_kernels.embedded.harder import world as harder
from sparrow_kernels.embedded.harder.clips import distraction_seconds, hidden_tiles
from sparrow_kernels.embedded.world import FRAMES_PER_SECOND, TILE

EASY_GROUPS = (*easy.ATTRIBUTE_COUNTS, easy.MAX_PARTS + 1)
"""Classes of a tile's labels: attributes, then the number of the part or "no scene"."""
HARDER_GROUPS = (*harder.ATTRIBUTE_COUNTS, 2)
"""Attributes, then scene or no scene."""
EASY_VIEWS = 2
_PHASES = 2  # seconds until a motion of the harder world starts again
HARDER_VIEWS = 2 * _PHASES  # view v is in phase v % _PHASES


def scene_labels(groups: tuple[int, ...]) -> np.ndarray:
    """Labels of every scene, [scenes, 7]. The last class of the last group is no scene's."""
    return np.array(list(product(*(range(n) for n in (*groups[:-1], groups[-1] - 1)))))


def easy_scenes(script: ClipScript) -> np.ndarray:
    """The number of each part's scene, [parts]."""
    rows = [(*part.attributes, number) for number, part in enumerate(script.parts)]
    return np.ravel_multi_index(np.array(rows).T, (*easy.ATTRIBUTE_COUNTS, easy.MAX_PARTS))


def harder_scenes(script: ClipScript) -> np.ndarray:
    """The number of each part's scene, [parts]."""
    rows = np.array([part.attributes for part in script.parts])
    return np.ravel_multi_index(rows.T, harder.ATTRIBUTE_COUNTS)


def easy_specimens(script: ClipScript, count: int, rng: np.random.Generator) -> np.ndarray:
    """[seconds, tiles, tiles], of a pool of `count` specimens."""
    tiles = script.tiles
    scenes = int(np.prod(easy.ATTRIBUTE_COUNTS)) * easy.MAX_PARTS
    specimens = []
    for part, scene in zip(script.parts, easy_scenes(script), strict=True):
        shape = (part.seconds, tiles, tiles)
        chosen = int(scene) * EASY_VIEWS + rng.integers(0, EASY_VIEWS, shape)
        hidden = rng.random((tiles, tiles)) < script.distractor_rate
        hidden[tuple(rng.integers(0, tiles, 2))] = False
        distractors = rng.integers(scenes * EASY_VIEWS, count, shape)
        specimens.append(np.where(hidden, distractors, chosen))
    return np.concatenate(specimens)


def harder_specimens(script: ClipScript, count: int, rng: np.random.Generator) -> np.ndarray:
    """[seconds, tiles, tiles], of a pool of `count` specimens. Motion goes on over the seconds."""
    shape = (script.seconds, script.tiles, script.tiles)
    durations = [part.seconds for part in script.parts]
    shown = np.broadcast_to(harder_scenes(script).repeat(durations)[:, None, None], shape)
    held = distraction_seconds(script.seconds, rng)
    scenes = int(np.prod(harder.ATTRIBUTE_COUNTS))
    distractors = rng.integers(scenes, count // HARDER_VIEWS, (len(held), *shape[1:]))
    chosen = np.where(hidden_tiles(script), distractors.repeat(held, axis=0), shown)
    phase = np.arange(script.seconds)[:, None, None] % _PHASES
    view = phase + _PHASES * rng.integers(0, HARDER_VIEWS // _PHASES, shape)
    return chosen * HARDER_VIEWS + view


def draw_easy_pool(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames of scenes, uint8 [scenes, frames, TILE, TILE, 3], for labels [scenes, 7]."""
    frames = EASY_VIEWS * FRAMES_PER_SECOND
    scenes = labels.repeat(frames, axis=0)
    drawn = easy.draw_tiles(
        scenes[:, :-1],
        scenes[:, -1],
        np.tile(np.arange(frames), len(labels)),
        rng.integers(-1, 2, (len(scenes), 2)),
    )
    return drawn.reshape(-1, frames, TILE, TILE, 3)


def draw_harder_pool(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames of scenes, uint8 [scenes, frames, TILE, TILE, 3], for labels [scenes, 7]."""
    frames = HARDER_VIEWS * FRAMES_PER_SECOND
    jitter = rng.integers(-1, 2, (len(labels) * HARDER_VIEWS, 2))
    drawn = harder.draw_tiles(
        labels[:, :-1].repeat(frames, axis=0),
        np.tile(np.arange(frames), len(labels)),
        jitter.repeat(FRAMES_PER_SECOND, axis=0),
    )
    return drawn.reshape(-1, frames, TILE, TILE, 3)
