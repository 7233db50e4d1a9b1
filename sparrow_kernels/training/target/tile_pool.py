"""A pool of tiles as the target will meet them: every possible scene, after a real H.264 file.

Each tile of a wall is one specimen, so one pass over the pool's files gives training images with
the codec's own chroma subsampling and artefacts, and later the features of whole clips without
running the vision tower again.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparrow_kernels.embedded.clips import read_mp4, write_mp4
from sparrow_kernels.embedded.specimens import scene_labels
from sparrow_kernels.embedded.world import FRAMES_PER_SECOND, TILE
from sparrow_kernels.embedded.worlds import EASY, World
from sparrow_kernels.training.bars import bar

_EDGE = 6  # tiles along an edge of a wall
_WALL = _EDGE * _EDGE
_WALLS_A_FILE = 64


@dataclass(frozen=True)
class TilePool:
    """Specimens in order of scene. Distractors come last.

    tiles: uint8 [N, 2, TILE, TILE, 3], N = (scenes + distractors) * views: a scene is held for so
    many seconds; labels: int64 [N, 7], -100 where undefined.
    """

    tiles: Tensor
    labels: Tensor


def _labels(world: World) -> np.ndarray:
    """Labels of every scene and of the distractors, [scenes + distractors, 7]."""
    hidden = np.full((world.distractors, len(world.groups)), -100)
    hidden[:, -1] = world.groups[-1] - 1
    return np.concatenate([scene_labels(world.groups), hidden])


def build_tile_pool(seed: int = 0, world: World = EASY) -> TilePool:
    """Draw every scene, write walls of them to mp4 files, and cut the decoded walls up again."""
    rng = np.random.default_rng([seed, 23])
    labels = _labels(world)
    # A wall mixes unrelated scenes; the last one is filled up with repetitions.
    order = np.resize(rng.permutation(len(labels)), -(-len(labels) // _WALL) * _WALL)
    shape = (len(labels), world.views, FRAMES_PER_SECOND, TILE, TILE, 3)
    tiles = torch.empty(shape, dtype=torch.uint8)
    batch = _WALLS_A_FILE * _WALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "walls.mp4"
        starts = range(0, len(order), batch)
        for start in bar(starts, logged=True, desc="tiles through H.264", unit="file"):
            chosen = order[start : start + batch]
            tiles[torch.from_numpy(chosen)] = _through_codec(world, labels[chosen], path, rng)
    repeated = torch.from_numpy(labels).repeat_interleave(world.views, 0)
    return TilePool(tiles.flatten(0, 1), repeated)


def _through_codec(
    world: World, labels: np.ndarray, path: Path, rng: np.random.Generator
) -> Tensor:
    """Specimens [N, views, 2, TILE, TILE, 3] of N scenes (a multiple of a wall), decoded."""
    count, frames = len(labels), world.views * FRAMES_PER_SECOND
    shown = labels[:, -1] < world.groups[-1] - 1
    drawn = np.empty((count, frames, TILE, TILE, 3), np.uint8)
    drawn[shown] = world.draw_pool(labels[shown], rng)
    drawn[~shown] = world.draw_distractors(int((~shown).sum()), frames, rng)

    walls = drawn.reshape(-1, _EDGE, _EDGE, frames, TILE, TILE, 3).transpose(0, 3, 1, 4, 2, 5, 6)
    write_mp4(path, walls.reshape(-1, _EDGE * TILE, _EDGE * TILE, 3))
    decoded, _ = read_mp4(path)
    cut = decoded.reshape(-1, frames, _EDGE, TILE, _EDGE, TILE, 3).transpose(0, 2, 4, 1, 3, 5, 6)
    return torch.from_numpy(
        cut.reshape(count, world.views, FRAMES_PER_SECOND, TILE, TILE, 3).copy()
    )
