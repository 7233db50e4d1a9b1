"""What is said about a clip: captions in four styles, and how they are scored."""

from __future__ import annotations

import re

from sparrow_kernels.embedded.clips import ClipScript, Part
from sparrow_kernels.embedded.questions import (
    QUESTION_KINDS,
    QUESTIONS,
    STYLES,
    Exchange,
    answer,
    ask,
)
from sparrow_kernels.embedded.sentences import description
from sparrow_kernels.embedded.world import (
    ACTION,
    ATTRIBUTE_COUNTS,
    ATTRIBUTES,
    NUMBERS,
    ORDINALS,
    PLACE,
)

__all__ = [
    "CONTENT_WORDS",
    "QUESTIONS",
    "QUESTION_KINDS",
    "STYLES",
    "Exchange",
    "all_phrases",
    "answer",
    "ask",
    "content_accuracy",
    "content_words",
    "description",
]

CONTENT_WORDS = frozenset(
    word for phrases in ATTRIBUTES.values() for phrase in phrases for word in phrase.split()
)

# Every place with every action: five and six have no common factor.
_SAMPLES = ATTRIBUTE_COUNTS[PLACE] * ATTRIBUTE_COUNTS[ACTION]


def content_words(text: str) -> list[str]:
    """The words of a text that name an attribute, in order."""
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word in CONTENT_WORDS]


def content_accuracy(text: str, truth: str) -> float:
    """The share of the truth's content words that stand at their place in the text."""
    expected, found = content_words(truth), content_words(text)
    right = sum(a == b for a, b in zip(expected, found, strict=False))
    return right / len(expected)


def all_phrases() -> list[str]:
    """Texts that together hold every word of every question and answer: the tokenizer's corpus."""
    phrases = [f"a {word} a" for word in sorted(CONTENT_WORDS)]
    phrases += [f"part {number} parts" for number in (*NUMBERS, *ORDINALS, "last")]
    named = {"part": "first", "thing": "red circle", "other": "red circle"}
    phrases += [form.format_map(named) for forms in QUESTIONS.values() for form in forms]
    phrases += [phrase.lower() for phrase in phrases]
    clips = [_sampler(number) for number in range(_SAMPLES)]
    phrases += [answer(kind, clip, 0, 1) for clip in clips for kind in QUESTIONS]
    phrases += [answer(kind, clip, 1, 0) for clip in clips for kind in QUESTIONS]
    return phrases


def _sampler(number: int) -> ClipScript:
    """Two parts; over `_SAMPLES` of them every word and every sentence is shown."""
    rows = (tuple((number + k) % count for count in ATTRIBUTE_COUNTS) for k in range(2))
    return ClipScript(0, 1, tuple(Part(row, 1) for row in rows))
