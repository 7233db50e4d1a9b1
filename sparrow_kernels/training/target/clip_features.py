"""Visual tokens of whole clips, put together from the features of single tiles."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sparrow_kernels.embedded.clips import ClipScript
from sparrow_kernels.embedded.worlds import EASY, World
from sparrow_kernels.training.target.tile_pool import TilePool
from sparrow_kernels.training.target.vision import patchify_tiles, tile_features

_CHUNK = 2048


@torch.no_grad()
def pool_features(tower: nn.Module, pool: TilePool) -> Tensor:
    """Features of every specimen, [specimens, 4, H] float16 (they are a gigabyte in float32)."""
    parts = [tile_features(tower, patchify_tiles(t)).half() for t in pool.tiles.split(_CHUNK)]
    return torch.cat(parts)


def clip_features(
    script: ClipScript, features: Tensor, rng: np.random.Generator, world: World = EASY
) -> Tensor:
    """A clip's visual tokens in the order the target gets them, [visual_tokens, H] float32.

    Every tile of every second shows the scene in a specimen of its own, or a distractor: as
    `render` draws it, without the pixels.
    """
    specimens = world.specimens(script, len(features), rng)
    return in_frame_order(features[torch.from_numpy(specimens)]).float()


def in_frame_order(tokens: Tensor) -> Tensor:
    """Tokens of tiles, [T, row, column, 4, ...], to rows of tokens across whole frames, [n, ...]"""
    return tokens.unflatten(3, (2, 2)).transpose(2, 3).flatten(0, 4)
