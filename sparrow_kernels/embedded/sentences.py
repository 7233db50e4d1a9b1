"""The captions. In the detailed one the form of a sentence follows from what its part does.

So a caption is exactly determined by its clip, and cannot be foreseen without having seen it.
"""

from __future__ import annotations

from sparrow_kernels.embedded.clips import ClipScript, Part
from sparrow_kernels.embedded.world import (
    ACTION,
    ATTRIBUTES,
    BACKGROUND,
    COLOR,
    NUMBERS,
    PLACE,
    SHAPE,
    SIZE,
)

WORDS = tuple(ATTRIBUTES.values())

_PLACES = (
    "on the left side",
    "on the right side",
    "near the top",
    "near the bottom",
    "in the center",
)

# One form for each action.
_FORMS = (
    "There is {thing} resting {place} over {background}.",
    "Over {background}, {thing} keeps blinking {place}.",
    "{Thing} is moving left {place} in front of {background}.",
    "{Place}, {thing} is moving right while behind it lies {background}.",
    "Against {background} we see {thing} {place}, slowly rising.",
    "We watch {thing} falling {place}, and behind it is {background}.",
)


def word(part: Part, attribute: int) -> str:
    """The word for an attribute of a part."""
    return WORDS[attribute][part.attributes[attribute]]


def thing(part: Part) -> str:
    """Names a part's object; no other part of the clip has one of that name."""
    return f"{word(part, COLOR)} {word(part, SHAPE)}"


def a_thing(part: Part) -> str:
    """Its name with the article."""
    article = "an" if word(part, COLOR)[0] in "aeiou" else "a"
    return f"{article} {thing(part)}"


def _sized(part: Part) -> str:
    return f"a {word(part, SIZE)} {thing(part)}"


def description(script: ClipScript) -> str:
    """The detailed caption: a sentence for each part."""
    sentences = [_sentence(part) for part in script.parts]
    return " ".join(["The video shows this.", *sentences, "Then the video ends."])


def _sentence(part: Part) -> str:
    place = _PLACES[part.attributes[PLACE]]
    return _FORMS[part.attributes[ACTION]].format(
        thing=_sized(part),
        Thing=_sized(part).capitalize(),
        place=place,
        Place=place.capitalize(),
        background=f"a {word(part, BACKGROUND)} background",
    )


def summary(script: ClipScript) -> str:
    """The brief caption: one sentence."""
    return "We see " + ", then ".join(a_thing(part) for part in script.parts) + "."


def listing(script: ClipScript) -> str:
    """The caption as a numbered list."""
    rows = (
        f"{NUMBERS[number]}: {thing(part)}, {word(part, BACKGROUND)} background,"
        f" {word(part, ACTION)}"
        for number, part in enumerate(script.parts)
    )
    return "; ".join(rows) + "."


def backwards(script: ClipScript) -> str:
    """The caption from the last part to the first."""
    last, *earlier = (f"{_sized(part)}, {word(part, ACTION)}." for part in script.parts[::-1])
    sentences = [f"At the end comes {last}", *(f"Before that comes {each}" for each in earlier)]
    return " ".join([*sentences, "With that the video begins."])
