"""What is said about a harder clip: questions in several phrasings, and their true answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparrow_kernels.embedded import captions as easy
from sparrow_kernels.embedded.captions import Exchange
from sparrow_kernels.embedded.clips import ClipScript, Part
from sparrow_kernels.embedded.harder.sentences import description, listing, summary, word
from sparrow_kernels.embedded.harder.world import (
    ATTRIBUTE_COUNTS,
    ATTRIBUTES,
    NUMBERS,
    ORDINALS,
)
from sparrow_kernels.embedded.world import ACTION, COLOR, PLACE, SHAPE

CONTENT_WORDS = frozenset(
    word for phrases in ATTRIBUTES.values() for phrase in phrases for word in phrase.split()
)

# {part} is an ordinal or "last".
QUESTIONS: dict[str, tuple[str, ...]] = {
    "describe": easy.QUESTIONS["describe"],
    "brief": (
        "Describe the video briefly.",
        "Briefly, what happens in the video?",
        "Give a short summary of the clip.",
        "Sum up the video in one sentence.",
    ),
    "list": (
        "List the parts of the video.",
        "Describe the video as a list.",
        "Please give a list of what you see in the clip.",
        "What is in the video? Answer with a list.",
    ),
    "color": (
        "What color is the object in the {part} part?",
        "Which color does the object in the {part} part have?",
        "Tell me the color of the object in the {part} part.",
        "In the {part} part, what is the color of the object?",
    ),
    "count": easy.QUESTIONS["count"],
    "shape": (
        "What shape is the object in the {part} part?",
        "Which shape does the object in the {part} part have?",
        "Tell me the shape of the object in the {part} part.",
        "In the {part} part, what is the shape of the object?",
    ),
    "action": (
        "What is the object in the {part} part doing?",
        "What does the object in the {part} part do?",
        "Tell me what the object in the {part} part is doing.",
        "In the {part} part, what is the object doing?",
    ),
    "place": (
        "Where is the object in the {part} part?",
        "Where do you see the object in the {part} part?",
        "Tell me where the object in the {part} part is.",
        "In the {part} part, where is the object?",
    ),
}
STYLES = {"describe": 0.5, "brief": 0.2, "list": 0.3}
"""Kinds whose answer is a caption, and how often training asks for each."""

# What ends a part in a caption.
_SEPARATORS = {"describe": ".", "brief": ",", "list": ";"}
# Every place with every action: five and six have no common factor.
_SAMPLES = ATTRIBUTE_COUNTS[PLACE] * ATTRIBUTE_COUNTS[ACTION]


def answer(kind: str, script: ClipScript, number: int = 0) -> str:
    """The true answer to a question of a kind, about part `number` (from 0) where it names one."""
    captions = {"describe": description, "brief": summary, "list": listing}
    if kind in captions:
        return captions[kind](script)
    if kind == "count":
        return f"It has {NUMBERS[len(script.parts) - 1]} parts."
    part = script.parts[number]
    if kind == "color":
        return f"It is {word(part, COLOR)}."
    if kind == "shape":
        return f"It is a {word(part, SHAPE)}."
    if kind == "action":
        return f"It is {word(part, ACTION)}."
    if kind == "place":
        return f"It is at the {word(part, PLACE)}."
    raise ValueError(f"kind must be one of {', '.join(QUESTIONS)}, got {kind!r}")


def ask(kind: str, script: ClipScript, rng: np.random.Generator) -> Exchange:
    """A question of a kind in a random phrasing, about a random part, with its true answer."""
    parts = len(script.parts)
    number = int(rng.integers(parts))
    is_last = number == parts - 1 and rng.random() < 0.5
    phrasings = QUESTIONS[kind]
    phrasing = phrasings[int(rng.integers(len(phrasings)))]
    question = phrasing.format(part="last" if is_last else ORDINALS[number])
    named = number if "{part}" in phrasing else None
    return Exchange(kind, question, answer(kind, script, number), named)


def spoken_parts(exchange: Exchange, words: Sequence[str], parts: int) -> list[int | None]:
    """The part, from 0, that comes next: before the answer, and after each of its words.

    words: the answer's tokens as text. None where no part is spoken of.
    """
    if exchange.part is not None:
        return [exchange.part] * (len(words) + 1)
    if exchange.kind not in _SEPARATORS:
        return [None] * (len(words) + 1)
    # The detailed caption begins with a sentence about no part.
    number = -1 if exchange.kind == "describe" else 0
    numbers = [number]
    for each in words:
        number += each == _SEPARATORS[exchange.kind]
        numbers.append(number)
    return [each if 0 <= each < parts else None for each in numbers]


def all_phrases() -> list[str]:
    """Texts that together hold every word of every question and answer: the tokenizer's corpus."""
    phrases = [f"a {word} a" for word in sorted(CONTENT_WORDS)]
    phrases += [f"part {number} parts" for number in (*NUMBERS, *ORDINALS, "last")]
    phrases += [form.format(part="first") for forms in QUESTIONS.values() for form in forms]
    phrases += [phrase.lower() for phrase in phrases]
    clips = [_sampler(number) for number in range(_SAMPLES)]
    phrases += [answer(kind, clip) for clip in clips for kind in QUESTIONS]
    return phrases


def _sampler(number: int) -> ClipScript:
    """Two parts; over `_SAMPLES` of them every word and every sentence is shown."""
    rows = (tuple((number + k) % count for count in ATTRIBUTE_COUNTS) for k in range(2))
    return ClipScript(0, 1, tuple(Part(row, 1) for row in rows))
