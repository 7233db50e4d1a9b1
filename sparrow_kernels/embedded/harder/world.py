"""What the harder clips show, and how one tile of it is drawn.

As in the other world a clip is a sequence of parts that show one object each. But nothing drawn
tells which part it is: that can only be read from the order of the frames. Objects move in a
direction, which takes two frames to see, and distractors are like them in everything but colour.
"""

from __future__ import annotations

import numpy as np

from sparrow_kernels.embedded import world as easy
from sparrow_kernels.embedded.world import (
    BACKGROUND,
    BACKGROUND_RGB,
    BLINK_OPACITY,
    BLINKING,
    COLOR,
    OBJECT_RGB,
    TILE,
    object_masks,
)

MAX_PARTS = 5
NUMBERS = easy.NUMBERS[:MAX_PARTS]
ORDINALS = ("first", "second", "third", "fourth", "fifth")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    **easy.ATTRIBUTES,
    "action": ("resting", "blinking", "moving left", "moving right", "rising", "falling"),
}
ATTRIBUTE_COUNTS = tuple(len(words) for words in ATTRIBUTES.values())

_PLACE_X = np.array([15, 41, 28, 28, 28])
_PLACE_Y = np.array([28, 28, 15, 41, 28])
# Pixels off the place over four frames, along x and y for each action; then it starts again.
_PATH = np.array([-5, -2, 1, 4])
_DIRECTION = np.array([(0, 0), (0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])

_DECOY_CONTRAST = (45, 110)  # gray levels between a decoy and what is around it


def draw_tiles(attributes: np.ndarray, frame: np.ndarray, jitter: np.ndarray) -> np.ndarray:
    """Draw N tiles, uint8 [N, TILE, TILE, 3].

    attributes: [N, 6] indices into ATTRIBUTES; frame: [N] number of the frame, of which only the
    remainder by four matters; jitter: [N, 2] pixels (x, y).
    """
    background = BACKGROUND_RGB[attributes[:, BACKGROUND]]
    return _paint(attributes, frame, jitter, background, OBJECT_RGB[attributes[:, COLOR]])


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
    inside = object_masks(size, shape, center_x, center_y)
    dimmed = (action == BLINKING) & (frame % 2 == 1)
    opacity = np.where(dimmed, BLINK_OPACITY, 1.0)[:, None]
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
    share a colour.
    """
    chosen = random_attributes(parts, rng)
    chosen[:, COLOR] = rng.permutation(ATTRIBUTE_COUNTS[COLOR])[:parts]
    # A step of one to three around the circle of four backgrounds never comes back to its start.
    backgrounds = ATTRIBUTE_COUNTS[BACKGROUND]
    steps = rng.integers(1, backgrounds, parts)
    steps[0] = rng.integers(backgrounds)
    chosen[:, BACKGROUND] = np.cumsum(steps) % backgrounds
    return chosen
