"""A few frames of a clip, small, as a page can hold them."""

from __future__ import annotations

import base64
import io

from sparrow_kernels.video.clip import Clip

MOST_FRAMES = 8
_WIDTH, _HEIGHT = 240, 152

Frame = tuple[float, str]
"""The second it is shown at, and a `data:` URI of its picture."""


def film_of(clip: Clip) -> list[Frame]:
    """At most `MOST_FRAMES` frames, spread over the clip; none where pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        return []
    total = len(clip.frames)
    count = min(MOST_FRAMES, total)
    film = []
    for number in ((2 * place + 1) * total // (2 * count) for place in range(count)):
        picture = Image.fromarray(clip.frames[number].permute(1, 2, 0).numpy())
        picture.thumbnail((_WIDTH, _HEIGHT))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=80)
        encoded = base64.b64encode(file.getvalue()).decode()
        film.append((round(float(number / clip.fps), 2), f"data:image/jpeg;base64,{encoded}"))
    return film
