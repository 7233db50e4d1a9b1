"""Which part a text token is about: what the hint (see `order`) asks of text.

A number is asked for where the model can have it: counting what was said takes no look at the
clip, finding "the red circle" takes one, and what comes after it one step more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sparrow_kernels.embedded.clips import ClipScript
from sparrow_kernels.embedded.questions import Exchange
from sparrow_kernels.embedded.sentences import word
from sparrow_kernels.embedded.world import COLOR

NONE = -100
COUNTED, NAMED, RELATED = range(3)
STEPS = 3
# What ends a part in a caption.
_SEPARATORS = {"describe": ".", "brief": ",", "list": ";", "backwards": "."}
_BESIDE = {"before": -1, "action": 0, "after": 1}

Numbers = tuple[int, int, int]
"""The part's number (from 0) at each step of knowing it: COUNTED, NAMED, RELATED."""
SILENT: Numbers = (NONE, NONE, NONE)


def spoken_numbers(
    exchange: Exchange, question: Sequence[str], answer: Sequence[str], script: ClipScript
) -> list[Numbers]:
    """The part that each token of a question and its answer is about, -100 where none.

    A name in the question, as "red circle", is about the part named. From the question's last token
    on, each token is about the part that the token after it belongs to.

    question, answer: tokens as text.
    """
    colors = {word(part, COLOR): number for number, part in enumerate(script.parts)}
    plain = [colors.get(token.lstrip("Ġ "), NONE) for token in ("", *question)]
    named = [number for number in plain if number != NONE]
    step, said = _said(exchange, answer, len(script.parts), named)
    # The word after a colour is the shape, and of the same part.
    asked = [_at(NAMED, max(pair)) for pair in pairwise(plain)]
    spoken = [_at(step, number if 0 <= number < len(script.parts) else NONE) for number in said]
    return asked[:-1] + spoken


def _said(
    exchange: Exchange, answer: Sequence[str], parts: int, named: Sequence[int]
) -> tuple[int, list[int]]:
    """A step, and the numbers before the answer and after each of its tokens; any integers."""
    kind, tokens = exchange.kind, len(answer) + 1
    if exchange.part is not None:
        return COUNTED, [exchange.part] * tokens
    if kind in _BESIDE:
        return RELATED, [named[0] + _BESIDE[kind]] * tokens
    if kind not in _SEPARATORS:
        return COUNTED, [NONE] * tokens
    back = kind == "backwards"
    # The detailed caption begins with a sentence about no part.
    number = parts - 1 if back else -1 if kind == "describe" else 0
    numbers = [number]
    for token in answer:
        number += (-1 if back else 1) * (token == _SEPARATORS[kind])
        numbers.append(number)
    return RELATED if back else COUNTED, numbers


def _at(step: int, number: int) -> Numbers:
    counted, named, related = (number if step == k else NONE for k in range(STEPS))
    return counted, named, related
