"""A pool of tiles as the target will meet them: every possible scene, after a real H.264 file.

Each tile of a wall is one specimen, so one pass over the pool's files gives training images with
the codec's own chroma subsampling and artefacts, and later the features of whole clips without
running the vision tower again.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sparrow_kernels.embedded.clips import read_mp4, write_mp4
from sparrow_kernels.embedded.world import (
    ATTRIBUTE_COUNTS,
    FRAMES_PER_SECOND,
    TILE,
    draw_distractors,
    draw_tiles,
)

_EDGE = 6  # tiles along an edge of a wall
_WALL = _EDGE * _EDGE
_WALLS_A_FILE = 64
PHASES = 2  # seconds until a motion starts again
VIEWS = 2 * PHASES  # seconds each scene is held, one specimen each; view v is in phase v % PHASES
SCENES = int(np.prod(ATTRIBUTE_COUNTS))
SCENE, NO_SCENE = 0, 1  # the last label


@dataclass(frozen=True)
class TilePool:
    """Specimens in order of scene. Distractors come last.

    tiles: uint8 [N, 2, TILE, TILE, 3], N = (scenes + distractors) * VIEWS;
    labels: int64 [N, 7], the attributes (-100 where undefined) and SCENE or NO_SCENE.
    """

    tiles: Tensor
    labels: Tensor


def scene_number(attributes: np.ndarray) -> np.ndarray:
    """[..., 6] -> the number of the scene in the pool, [...]."""
    return np.ravel_multi_index(tuple(np.moveaxis(attributes, -1, 0)), ATTRIBUTE_COUNTS)


def _scenes(distractors: int) -> np.ndarray:
    """Labels of every scene, [scenes + distractors, 7]."""
    scenes = np.array(list(product(*(range(n) for n in ATTRIBUTE_COUNTS), [SCENE])))
    hidden = np.full((distractors, scenes.shape[1]), -100)
    hidden[:, -1] = NO_SCENE
    return np.concatenate([scenes, hidden])


def build_tile_pool(seed: int = 0, distractors: int = 1872) -> TilePool:
    """Draw every scene, write walls of them to mp4 files, and cut the decoded walls up again."""
    rng = np.random.default_rng([seed, 23])
    labels = _scenes(distractors)
    # A wall mixes unrelated scenes; the last one is filled up with repetitions.
    order = np.resize(rng.permutation(len(labels)), -(-len(labels) // _WALL) * _WALL)
    tiles = torch.empty((len(labels), VIEWS, FRAMES_PER_SECOND, TILE, TILE, 3), dtype=torch.uint8)
    batch = _WALLS_A_FILE * _WALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "walls.mp4"
        for start in tqdm(range(0, len(order), batch), desc="tiles through H.264", unit="file"):
            chosen = order[start : start + batch]
            tiles[torch.from_numpy(chosen)] = _through_codec(labels[chosen], path, rng)
    repeated = torch.from_numpy(labels).repeat_interleave(VIEWS, 0)
    return TilePool(tiles.flatten(0, 1), repeated)


def _through_codec(labels: np.ndarray, path: Path, rng: np.random.Generator) -> Tensor:
    """Specimens [N, VIEWS, 2, TILE, TILE, 3] of N scenes (a multiple of a wall), decoded."""
    count, frames = len(labels), VIEWS * FRAMES_PER_SECOND
    shown = labels[:, -1] == SCENE
    drawn = np.empty((count, frames, TILE, TILE, 3), np.uint8)
    scenes = int(shown.sum())
    drawn[shown] = draw_tiles(
        labels[shown, :-1].repeat(frames, axis=0),
        np.tile(np.arange(frames), scenes),
        rng.integers(-1, 2, (scenes * VIEWS, 2)).repeat(FRAMES_PER_SECOND, axis=0),
    ).reshape(-1, frames, TILE, TILE, 3)
    drawn[~shown] = draw_distractors(int((~shown).sum()), frames, rng)

    walls = drawn.reshape(-1, _EDGE, _EDGE, frames, TILE, TILE, 3).transpose(0, 3, 1, 4, 2, 5, 6)
    write_mp4(path, walls.reshape(-1, _EDGE * TILE, _EDGE * TILE, 3))
    decoded, _ = read_mp4(path)
    cut = decoded.reshape(-1, frames, _EDGE, TILE, _EDGE, TILE, 3).transpose(0, 2, 4, 1, 3, 5, 6)
    return torch.from_numpy(cut.reshape(count, VIEWS, FRAMES_PER_SECOND, TILE, TILE, 3).copy())
