"""What is said about a clip: the caption, questions with their true answers, and their scoring."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from sparrow_kernels.embedded.clips import ClipScript
from sparrow_kernels.embedded.questions import QUESTIONS
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
CONTENT_WORDS = frozenset(word for words in WORDS for word in words)

PLACE_PHRASES = (
    "on the left side",
    "on the right side",
    "near the top",
    "near the bottom",
    "in the center",
)


@dataclass(frozen=True)
class Exchange:
    """A question about a clip and its true answer."""

    kind: str
    question: str
    answer: str
    part: int | None = None
    """The part (from 0) that the question asks about, where the world's hint is to know it."""


def description(script: ClipScript) -> str:
    """The caption: one sentence a part, in two forms that alternate."""
    count = NUMBERS[len(script.parts) - 1]
    sentences = [f"This is a video made of {count} parts."]
    for number, part in enumerate(script.parts):
        sentences.append(_sentence(number, part.attributes))
    sentences.append("That is where the video comes to its end.")
    return " ".join(sentences)


def _sentence(number: int, attributes: Sequence[int]) -> str:
    word = [words[a] for words, a in zip(WORDS, attributes, strict=True)]
    thing = f"a {word[SIZE]} {word[COLOR]} {word[SHAPE]}"
    where = PLACE_PHRASES[attributes[PLACE]]
    part, background = f"part {NUMBERS[number]}", f"a {word[BACKGROUND]} background"
    if number % 2 == 0:
        return f"In {part}, {thing} can be seen {word[ACTION]} {where} over {background}."
    return f"Then, in {part}, we see {background} with {thing} {word[ACTION]} {where}."


def answer(kind: str, script: ClipScript, number: int = 0) -> str:
    """The true answer to a question of a kind, about part `number` (from 0) where it names one."""
    if kind == "describe":
        return description(script)
    if kind == "count":
        return f"The video has {NUMBERS[len(script.parts) - 1]} parts."
    attributes = script.parts[number].attributes
    subject = f"The object in part {NUMBERS[number]} is"
    if kind == "color":
        return f"{subject} {WORDS[COLOR][attributes[COLOR]]}."
    if kind == "shape":
        return f"{subject} a {WORDS[SHAPE][attributes[SHAPE]]}."
    if kind == "action":
        return f"{subject} {WORDS[ACTION][attributes[ACTION]]}."
    raise ValueError(f"kind must be one of {', '.join(QUESTIONS)}, got {kind!r}")


def ask(kind: str, script: ClipScript, rng: np.random.Generator) -> Exchange:
    """A question of a kind in a random phrasing, about a random part, with its true answer."""
    number = int(rng.integers(len(script.parts)))
    phrasings = QUESTIONS[kind]
    question = phrasings[int(rng.integers(len(phrasings)))].format(part=NUMBERS[number])
    return Exchange(kind, question, answer(kind, script, number))


def words_not_taught(question: str) -> list[str]:
    """The words of a question that are in none of `QUESTIONS`, in its order."""
    taught = {*NUMBERS}
    for forms in QUESTIONS.values():
        for each in forms:
            taught.update(re.findall(r"\w+", each.lower()))
    return [word for word in re.findall(r"\w+", question.lower()) if word not in taught]


def content_words(text: str, known: Set[str] = CONTENT_WORDS) -> list[str]:
    """The words of a text that name an attribute, in order."""
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word in known]


def content_accuracy(text: str, truth: str, known: Set[str] = CONTENT_WORDS) -> float:
    """The share of the truth's content words that stand at their place in the text."""
    expected, found = content_words(truth, known), content_words(text, known)
    right = sum(a == b for a, b in zip(expected, found, strict=False))
    return right / len(expected)


def all_phrases() -> list[str]:
    """Texts that together hold every word of every question and answer: the tokenizer's corpus."""
    phrases = list(PLACE_PHRASES) + [f"a {word} a" for word in sorted(CONTENT_WORDS)]
    phrases += [f"part {number} parts" for number in NUMBERS]
    phrases += [question.format(part="one") for forms in QUESTIONS.values() for question in forms]
    phrases += [phrase.lower() for phrase in phrases]
    phrases += [_sentence(number, (0,) * len(WORDS)) for number in (0, 1)]
    phrases += ["This is a video made of", "That is where the video comes to its end."]
    phrases += ["The video has one parts.", "The object in part one is a"]
    return phrases
