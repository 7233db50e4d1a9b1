"""Captions in three styles. In the detailed one a sentence's form follows from what its part does.

So a caption is exactly determined by its clip, and cannot be foreseen without having seen it.
"""

from __future__ import annotations

from sparrow_kernels.embedded.clips import ClipScript, Part
from sparrow_kernels.embedded.harder.world import ATTRIBUTES, NUMBERS
from sparrow_kernels.embedded.world import ACTION, BACKGROUND, COLOR, PLACE, SHAPE, SIZE

_WORDS = tuple(ATTRIBUTES.values())

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
    return _WORDS[attribute][part.attributes[attribute]]


def _thing(part: Part) -> str:
    return f"{word(part, COLOR)} {word(part, SHAPE)}"


def description(script: ClipScript) -> str:
    """The detailed caption: a sentence for each part."""
    sentences = [_sentence(part) for part in script.parts]
    return " ".join(["The video shows this.", *sentences, "Then the video ends."])


def _sentence(part: Part) -> str:
    sized = f"a {word(part, SIZE)} {_thing(part)}"
    place = f"at the {word(part, PLACE)}"
    return _FORMS[part.attributes[ACTION]].format(
        thing=sized,
        Thing=sized.capitalize(),
        place=place,
        Place=place.capitalize(),
        background=f"a {word(part, BACKGROUND)} background",
    )


def summary(script: ClipScript) -> str:
    """The brief caption: one sentence."""
    named = (
        f"{'an' if word(part, COLOR)[0] in 'aeiou' else 'a'} {_thing(part)}"
        for part in script.parts
    )
    return f"We see {', then '.join(named)}."


def listing(script: ClipScript) -> str:
    """The caption as a numbered list."""
    rows = (
        f"{NUMBERS[number]}: {_thing(part)}, {word(part, BACKGROUND)} background,"
        f" {word(part, ACTION)}"
        for number, part in enumerate(script.parts)
    )
    return f"{'; '.join(rows)}."
