"""Questions about a clip, each in several phrasings, and their true answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparrow_kernels.embedded.clips import ClipScript
from sparrow_kernels.embedded.sentences import (
    a_thing,
    backwards,
    description,
    listing,
    summary,
    thing,
    word,
)
from sparrow_kernels.embedded.world import ACTION, COLOR, NUMBERS, ORDINALS, SHAPE

# {part} is an ordinal or "last"; {thing} and {other} name objects as "red circle".
QUESTIONS: dict[str, tuple[str, ...]] = {
    "describe": (
        "Describe the video in detail.",
        "Describe this video.",
        "What happens in the video?",
        "What do you see in this clip?",
        "Please give a detailed description of the clip.",
    ),
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
    "backwards": (
        "Describe the video backwards.",
        "Describe the clip from the last part to the first.",
        "What happens in the video, in reverse order?",
        "Begin at the end of the clip and go back to its beginning.",
    ),
    "color": (
        "What color is the object in the {part} part?",
        "Which color does the object in the {part} part have?",
        "Tell me the color of the object in the {part} part.",
        "In the {part} part, what is the color of the object?",
    ),
    "count": (
        "How many parts does the video have?",
        "How many parts are there?",
        "Count the parts of this video.",
        "What is the number of parts in the clip?",
    ),
    "shape": (
        "What shape is the object in the {part} part?",
        "Which shape does the object in the {part} part have?",
        "Tell me the shape of the object in the {part} part.",
        "In the {part} part, what is the shape of the object?",
    ),
    "action": (
        "What is the object in the {part} part doing?",
        "Tell me what the object in the {part} part is doing.",
        "What does the {thing} do?",
        "Tell me what the {thing} is doing.",
    ),
    "after": (
        "What comes right after the {thing}?",
        "Which object follows the {thing}?",
        "Tell me what comes after the {thing}.",
        "After the {thing}, what is the next object?",
    ),
    "before": (
        "What comes right before the {thing}?",
        "Which object does the {thing} follow?",
        "Tell me what comes before the {thing}.",
        "Before the {thing}, what is the object?",
    ),
    "order": (
        "Does the {thing} come before the {other}?",
        "Is the {thing} seen before the {other}?",
        "Tell me if the {thing} comes before the {other}.",
        "The {thing} and the {other}: is that their order?",
    ),
}
STYLES = ("describe", "brief", "list", "backwards")
"""Kinds whose answer is a caption."""
QUESTION_KINDS = tuple(kind for kind in QUESTIONS if kind != "describe")


@dataclass(frozen=True)
class Exchange:
    """A question about a clip and its true answer."""

    kind: str
    question: str
    answer: str
    part: int | None = None
    """The part (from 0) that the question names by its place in the clip."""


def answer(kind: str, script: ClipScript, number: int = 0, other: int = 0) -> str:
    """The true answer to a question of a kind.

    number, other: the parts (from 0) that the question names, where it names any.
    """
    captions = {
        "describe": description,
        "brief": summary,
        "list": listing,
        "backwards": backwards,
    }
    if kind in captions:
        return captions[kind](script)
    if kind == "count":
        return f"It has {NUMBERS[len(script.parts) - 1]} parts."
    if kind == "color":
        return f"It is {word(script.parts[number], COLOR)}."
    if kind == "shape":
        return f"It is a {word(script.parts[number], SHAPE)}."
    if kind == "action":
        return f"It is {word(script.parts[number], ACTION)}."
    if kind == "after":
        return _neighbour(script, number + 1)
    if kind == "before":
        return _neighbour(script, number - 1)
    if kind == "order":
        return "Yes, it does." if number < other else "No, it does not."
    raise ValueError(f"kind must be one of {', '.join(QUESTIONS)}, got {kind!r}")


def _neighbour(script: ClipScript, number: int) -> str:
    if 0 <= number < len(script.parts):
        return f"It is {a_thing(script.parts[number])}."
    return "It is nothing."


def ask(kind: str, script: ClipScript, rng: np.random.Generator) -> Exchange:
    """A question of a kind in a random phrasing, about random parts, with its true answer.

    Raises:
        ValueError: an order is asked for where there is one part only.
    """
    parts = len(script.parts)
    if kind == "order" and parts < 2:
        raise ValueError("a clip asked for an order needs two parts or more, got one")
    number = int(rng.integers(parts))
    other = (number + int(rng.integers(1, max(parts, 2)))) % parts
    is_last = number == parts - 1 and rng.random() < 0.5
    phrasings = QUESTIONS[kind]
    phrasing = phrasings[int(rng.integers(len(phrasings)))]
    question = phrasing.format(
        part="last" if is_last else ORDINALS[number],
        thing=thing(script.parts[number]),
        other=thing(script.parts[other]),
    )
    named = number if "{part}" in phrasing else None
    return Exchange(kind, question, answer(kind, script, number, other), named)
