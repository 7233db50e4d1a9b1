"""The small world the embedded clips show: what an object can be, and how one tile of it is drawn.

A clip is a sequence of parts. Each part shows one object, described by six attributes, and a
chapter bar along the bottom edge whose lit cell tells the number of the part. Everything is drawn
in tiles of 56x56 pixels, the window of the target's vision tower.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

TILE = 56
MAX_PARTS = 7
FRAMES_PER_SECOND = 2

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": ("small", "large"),
    "color": ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink"),
    "shape": ("circle", "square", "triangle", "cross", "ring", "diamond"),
    "place": ("left", "right", "top", "bottom", "center"),
    "background": ("black", "gray", "white", "brown"),
    "action": ("resting", "blinking", "shaking"),
}
SIZE, COLOR, SHAPE, PLACE, BACKGROUND, ACTION = range(6)
ATTRIBUTE_COUNTS = tuple(len(words) for words in ATTRIBUTES.values())
BLINKING, SHAKING = 1, 2

OBJECT_RGB = np.array(
    [
        [230, 26, 26],
        [26, 204, 26],
        [38, 51, 242],
        [242, 230, 26],
        [140, 26, 191],
        [255, 140, 13],
        [26, 217, 230],
        [255, 140, 191],
    ]
)
BACKGROUND_RGB = np.array([[0, 0, 0], [115, 115, 115], [255, 255, 255], [102, 64, 31]])
_BAR_OFF_RGB, _BAR_LIT_RGB = (16, 16, 16), (240, 240, 240)
BAR_HEIGHT = 6
BAR_CELL = TILE // MAX_PARTS

_PLACE_X = np.array([16, 40, 28, 28, 28])
_PLACE_Y = np.array([25, 25, 14, 36, 25])
_RADII = (7.3, 12.9)
_SHAKE = 3  # pixels to either side, in turn
BLINK_OPACITY = 0.25


@lru_cache(maxsize=1)
def _sprites() -> np.ndarray:
    """Masks [2 sizes, 6 shapes, 2 * TILE, 2 * TILE] bool, centred in a canvas of twice a tile."""
    axis = np.arange(2 * TILE) - TILE
    dy, dx = np.meshgrid(axis, axis, indexing="ij")
    ax, ay = np.abs(dx), np.abs(dy)
    square_distance = dx**2 + dy**2
    masks = []
    for r in _RADII:
        masks.append(
            [
                square_distance < r * r,
                (ax < 0.9 * r) & (ay < 0.9 * r),
                (ay < r) & (ax < 0.55 * (dy + r)),
                ((ax < 0.33 * r) & (ay < 1.05 * r)) | ((ay < 0.33 * r) & (ax < 1.05 * r)),
                (square_distance < 1.1 * r * r) & (square_distance > 0.36 * r * r),
                ax + ay < 1.15 * r,
            ]
        )
    return np.array(masks)


def object_masks(
    size: np.ndarray, shape: np.ndarray, center_x: np.ndarray, center_y: np.ndarray
) -> np.ndarray:
    """Where objects are in their tiles, bool [N, TILE, TILE]; the arguments are [N]."""
    axis = np.arange(TILE) + TILE
    rows = axis[None, :, None] - center_y[:, None, None]
    columns = axis[None, None, :] - center_x[:, None, None]
    return _sprites()[size[:, None, None], shape[:, None, None], rows, columns]


def draw_tiles(
    attributes: np.ndarray, part: np.ndarray, frame: np.ndarray, jitter: np.ndarray
) -> np.ndarray:
    """Draw N tiles, uint8 [N, TILE, TILE, 3].

    attributes: [N, 6] indices into ATTRIBUTES; part: [N] from 0; frame: [N] number of the frame,
    of which only the parity matters (blinking and shaking alternate); jitter: [N, 2] pixels (x, y).
    """
    size, color, shape, place, background, action = attributes.T
    odd = frame % 2 == 1
    shake = np.where(action == SHAKING, np.where(odd, _SHAKE, -_SHAKE), 0)
    center_x = _PLACE_X[place] + jitter[:, 0] + shake
    center_y = _PLACE_Y[place] + jitter[:, 1]
    inside = object_masks(size, shape, center_x, center_y)

    opacity = np.where((action == BLINKING) & odd, BLINK_OPACITY, 1.0)[:, None]
    background_rgb = BACKGROUND_RGB[background]
    object_rgb = background_rgb * (1 - opacity) + OBJECT_RGB[color] * opacity

    # One label a pixel, then one palette lookup: several times faster than blending layers.
    label = inside.astype(np.intp)
    lit = np.arange(TILE)[None, :] // BAR_CELL == part[:, None]
    label[:, -BAR_HEIGHT:, :] = np.where(lit, 3, 2)[:, None, :]
    palette = np.empty((len(part), 4, 3), np.uint8)
    palette[:, 0], palette[:, 1] = background_rgb, object_rgb
    palette[:, 2], palette[:, 3] = _BAR_OFF_RGB, _BAR_LIT_RGB
    return palette[np.arange(len(part))[:, None, None], label]


def draw_distractors(count: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Tiles that show no scene, uint8 [count, frames, TILE, TILE, 3]: flat gray, or grainy static.

    They carry no chapter bar, so nothing in them may be described.
    """
    grain = rng.integers(0, 256, (count, frames, TILE // 4, TILE // 4))
    grain = grain.repeat(4, axis=2).repeat(4, axis=3)
    flat = rng.integers(40, 200, (count, 1, 1, 1))
    is_static = rng.random((count, 1, 1, 1)) < 0.5
    gray = np.where(is_static, grain, flat).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


def random_attributes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform attributes, [count, 6] int64."""
    return rng.integers(0, ATTRIBUTE_COUNTS, (count, len(ATTRIBUTE_COUNTS)))
