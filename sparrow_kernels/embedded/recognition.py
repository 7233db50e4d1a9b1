"""Whether a clip is one of the embedded pair's small world."""

from __future__ import annotations

import numpy as np

from sparrow_kernels.embedded.world import BAR_CELL, BAR_HEIGHT, MAX_PARTS, TILE

_LOOKED_AT = 8
_LIT, _OFF = 180, 80  # mp4 blurs the bar's 240 and 16


def is_of_the_world(frames: np.ndarray) -> bool:
    """Whether most of `frames`, uint8 [T, 3, H, W], have a tile with the chapter bar of the world.

    Each tile that shows a scene has one along its bottom edge, with one lit cell; no other clip has
    that by chance.
    """
    height, width = frames.shape[2:]
    if height != width or height % TILE:
        return False
    count = min(_LOOKED_AT, len(frames))
    looked_at = frames[np.linspace(0, len(frames) - 1, count).astype(int)].mean(axis=1)
    tiles = height // TILE
    grid = looked_at.reshape(count, tiles, TILE, tiles, TILE)
    # The cells' inner pixels: those on their edges run into one another.
    bars = grid[:, :, TILE - BAR_HEIGHT + 1 : -1].reshape(
        count, tiles, BAR_HEIGHT - 2, tiles, MAX_PARTS, BAR_CELL
    )
    cells = bars[..., 2:-2].mean(axis=(2, 5))
    is_bar = ((cells > _LIT).sum(axis=-1) == 1) & ((cells < _OFF).sum(axis=-1) == MAX_PARTS - 1)
    return bool(is_bar.any(axis=(1, 2)).mean() > 0.5)
