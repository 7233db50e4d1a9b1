"""Visual tokens of whole clips, put together from the features of single tiles."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sparrow_kernels.embedded.clips import ClipScript, distraction_seconds, hidden_tiles
from sparrow_kernels.training.target.tile_pool import (
    PHASES,
    SCENES,
    VIEWS,
    TilePool,
    scene_number,
)
from sparrow_kernels.training.target.vision import patchify_tiles, tile_features

_CHUNK = 2048


@torch.no_grad()
def pool_features(tower: nn.Module, pool: TilePool) -> Tensor:
    """Features of every specimen, [specimens, 4, H] float16 (they are a gigabyte in float32)."""
    parts = [tile_features(tower, patchify_tiles(t)).half() for t in pool.tiles.split(_CHUNK)]
    return torch.cat(parts)


def clip_features(script: ClipScript, features: Tensor, rng: np.random.Generator) -> Tensor:
    """A clip's visual tokens in the order the target gets them, [visual_tokens, H] float32.

    Every tile of every second shows the scene in a specimen of its own, or a distractor: as
    `render` draws it, without the pixels.
    """
    shape = (script.seconds, script.tiles, script.tiles)
    scenes = scene_number(np.array([part.attributes for part in script.parts]))
    durations = [part.seconds for part in script.parts]
    shown = np.broadcast_to(scenes.repeat(durations)[:, None, None], shape)
    held = distraction_seconds(script.seconds, rng)
    distractors = rng.integers(SCENES, len(features) // VIEWS, (len(held), *shape[1:]))
    chosen = np.where(hidden_tiles(script), distractors.repeat(held, axis=0), shown)
    phase = np.arange(script.seconds)[:, None, None] % PHASES
    view = phase + PHASES * rng.integers(0, VIEWS // PHASES, shape)
    return in_frame_order(features[torch.from_numpy(chosen * VIEWS + view)]).float()


def in_frame_order(tokens: Tensor) -> Tensor:
    """Tokens of tiles, [T, row, column, 4, ...], to rows of tokens across whole frames, [n, ...]"""
    return tokens.unflatten(3, (2, 2)).transpose(2, 3).flatten(0, 4)
