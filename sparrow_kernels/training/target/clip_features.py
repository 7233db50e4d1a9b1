"""Visual tokens of whole clips, put together from the features of single tiles."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sparrow_kernels.embedded.clips import ClipScript
from sparrow_kernels.embedded.world import ATTRIBUTE_COUNTS, MAX_PARTS
from sparrow_kernels.training.target.tile_pool import VIEWS, TilePool, scene_number
from sparrow_kernels.training.target.vision import patchify_tiles, tile_features

_CHUNK = 2048
_SCENES = int(np.prod(ATTRIBUTE_COUNTS)) * MAX_PARTS


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
    tiles = script.tiles
    specimens = []
    for number, part in enumerate(script.parts):
        shape = (part.seconds, tiles, tiles)
        scene = int(scene_number(np.array(part.attributes), np.array(number)))
        chosen = scene * VIEWS + rng.integers(0, VIEWS, shape)
        hidden = rng.random((tiles, tiles)) < script.distractor_rate
        hidden[tuple(rng.integers(0, tiles, 2))] = False
        distractors = rng.integers(_SCENES * VIEWS, len(features), shape)
        specimens.append(np.where(hidden, distractors, chosen))
    chosen = np.concatenate(specimens)
    # [T, row, column, 2 x 2 tokens, H] -> rows of tokens across the whole frame
    tokens = features[torch.from_numpy(chosen)].unflatten(3, (2, 2)).transpose(2, 3)
    return tokens.reshape(script.visual_tokens, -1).float()
