"""The small world the embedded clips show: what an object can be, and how one tile of it is drawn.

A clip is a sequence of parts. Each part shows one object, described by six attributes. Nothing
drawn tells which part it is: that can only be read from the order of the frames. Everything is
drawn in tiles of 56x56 pixels, the window of the target's vision tower.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

TILE = 56
MAX_PARTS = 7
FRAMES_PER_SECOND = 2

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": ("small", "large"),
    "color": ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink"),
    "shape": ("circle", "square", "triangle", "cross", "ring", "diamond"),
    "place": ("left", "right", "top", "bottom", "center"),
    "background": ("black", "gray", "white", "brown"),
    "action": ("resting", "blinking", "moving left", "moving right", "rising", "falling"),
}
SIZE, COLOR, SHAPE, PLACE, BACKGROUND, ACTION = range(6)
ATTRIBUTE_COUNTS = tuple(len(words) for words in ATTRIBUTES.values())
BLINKING = 1

_OBJECT_RGB = np.array(
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
_BACKGROUND_RGB = np.array([[0, 0, 0], [115, 115, 115], [255, 255, 255], [102, 64, 31]])

_PLACE_X = np.array([15, 41, 28, 28, 28])
_PLACE_Y = np.array([28, 28, 15, 41, 28])
_RADII = (7.3, 12.9)
_BLINK_OPACITY = 0.25
# Pixels off the place over four frames, along x and y for each action; then it starts again.
_PATH = np.array([-5, -2, 1, 4])
_DIRECTION = np.array([(0, 0), (0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])

_DECOY_CONTRAST = (45, 110)  # gray levels between a decoy and what is around it


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


def draw_tiles(attributes: np.ndarray, frame: np.ndarray, jitter: np.ndarray) -> np.ndarray:
    """Draw N tiles, uint8 [N, TILE, TILE, 3].

    attributes: [N, 6] indices into ATTRIBUTES; frame: [N] number of the frame, of which only the
    remainder by four matters; jitter: [N, 2] pixels (x, y).
    """
    background = _BACKGROUND_RGB[attributes[:, BACKGROUND]]
    return _paint(attributes, frame, jitter, background, _OBJECT_RGB[attributes[:, COLOR]])


def _paint(
    attributes: np.ndarray,
    frame: np.ndarray,
    jitter: np.ndarray,
    background_rgb: np.ndarray,
    object_rgb: np.ndarray,
) -> np.ndarray:
    """Tiles of objects in given colours, both [N, 3]."""
    size, _, shape, place, _, action = attributes.T
    moved = _DIRECTION[action] * _PATH[frame % len(_PATH)][:, None]
    center_x = _PLACE_X[place] + jitter[:, 0] + moved[:, 0]
    center_y = _PLACE_Y[place] + jitter[:, 1] + moved[:, 1]
    axis = np.arange(TILE) + TILE
    rows = axis[None, :, None] - center_y[:, None, None]
    columns = axis[None, None, :] - center_x[:, None, None]
    inside = _sprites()[size[:, None, None], shape[:, None, None], rows, columns]

    dimmed = (action == BLINKING) & (frame % 2 == 1)
    opacity = np.where(dimmed, _BLINK_OPACITY, 1.0)[:, None]
    # One label a pixel, then one palette lookup: several times faster than blending layers.
    palette = np.empty((len(attributes), 2, 3), np.uint8)
    palette[:, 0] = background_rgb
    palette[:, 1] = background_rgb * (1 - opacity) + object_rgb * opacity
    return palette[np.arange(len(attributes))[:, None, None], inside.astype(np.intp)]


def draw_distractors(count: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Tiles of which nothing may be said, uint8 [count, frames, TILE, TILE, 3].

    All are gray, objects have colours: flat tiles, grainy static, and decoys: gray objects on
    gray, which rest, blink and move as coloured ones do.
    """
    grain = rng.integers(0, 256, (count, frames, TILE // 4, TILE // 4))
    static = grain.repeat(4, axis=2).repeat(4, axis=3).astype(np.uint8)
    flat = np.broadcast_to(rng.integers(40, 200, (count, 1, 1, 1)), static.shape)
    kind = rng.integers(0, 3, (count, 1, 1, 1))
    gray = np.where(kind == 0, flat, static).astype(np.uint8)
    drawn = np.repeat(gray[..., None], 3, axis=-1)
    decoys = kind.ravel() == 2
    drawn[decoys] = _draw_decoys(int(decoys.sum()), frames, rng)
    return drawn


def _draw_decoys(count: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    attributes = random_attributes(count, rng).repeat(frames, axis=0)
    around = rng.integers(0, 256, count)
    contrast = rng.integers(*_DECOY_CONTRAST, count)
    # Towards the middle gray: there is always room for the contrast.
    level = np.where(around > 127, around - contrast, around + contrast)
    painted = _paint(
        attributes,
        np.tile(np.arange(frames), count),
        rng.integers(-1, 2, (count, 2)).repeat(frames, axis=0),
        *(np.tile(gray.repeat(frames)[:, None], 3) for gray in (around, level)),
    )
    return painted.reshape(count, frames, TILE, TILE, 3)


def random_attributes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform attributes, [count, 6] int64."""
    return rng.integers(0, ATTRIBUTE_COUNTS, (count, len(ATTRIBUTE_COUNTS)))


def random_sequence(parts: int, rng: np.random.Generator) -> np.ndarray:
    """Attributes of the parts of a clip, [parts, 6] int64.

    Consecutive parts differ in background, so that each cut is visible, and no two parts of a clip
    share a colour, so that "the red circle" names one part.
    """
    chosen = random_attributes(parts, rng)
    chosen[:, COLOR] = rng.permutation(ATTRIBUTE_COUNTS[COLOR])[:parts]
    # A step of one to three around the circle of four backgrounds never comes back to its start.
    backgrounds = ATTRIBUTE_COUNTS[BACKGROUND]
    steps = rng.integers(1, backgrounds, parts)
    steps[0] = rng.integers(backgrounds)
    chosen[:, BACKGROUND] = np.cumsum(steps) % backgrounds
    return chosen
