"""Which part a text token is about: what the hint (see `order`) asks of text.

A part can be looked up by its number, by the colour of the part before it, or by the colour of the
part itself, since colours do not repeat. What was said, or the question, tells one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sparrow_kernels.embedded.clips import ClipScript
from sparrow_kernels.embedded.questions import Exchange
from sparrow_kernels.embedded.sentences import word
from sparrow_kernels.embedded.world import COLOR

NONE = -100
# What is asked: the number of the part spoken of, the colour of the part before it, the colour of
# the part to be found (whose neighbour may be meant), and the number of a part named.
NUMBER, BEFORE, FOUND, NAMED = range(4)
Spoken = tuple[int, int, int, int]
SILENT: Spoken = (NONE, NONE, NONE, NONE)
# What ends a part in a caption.
_SEPARATORS = {"describe": ".", "brief": ",", "list": ";", "backwards": "."}


def spoken_parts(
    exchange: Exchange, question: Sequence[str], answer: Sequence[str], script: ClipScript
) -> list[Spoken]:
    """What each token of a question and its answer is asked, -100 where nothing.

    A name in the question, as "red circle", is about the part named. From the question's last token
    on, each token is about the part that the token after it belongs to.

    question, answer: tokens as text.
    """
    numbers = {word(part, COLOR): number for number, part in enumerate(script.parts)}
    plain = [numbers.get(token.lstrip("Ġ "), NONE) for token in ("", *question)]
    # The word after a colour is the shape, and of the same part.
    named = [max(pair) for pair in pairwise(plain)]
    asked = [(NONE, NONE, NONE, number) for number in named]
    colors = [part.attributes[COLOR] for part in script.parts]
    if exchange.kind in _SEPARATORS:
        said = _captioned(exchange.kind, answer, colors)
    else:
        one = _answered(exchange, [colors[n] for n in plain if n != NONE])
        said = [one] * (len(answer) + 1)
    return asked[:-1] + said


def _answered(exchange: Exchange, named: Sequence[int]) -> Spoken:
    if exchange.part is not None:
        return exchange.part, NONE, NONE, NONE
    if exchange.kind == "after":
        return NONE, named[0], NONE, NONE
    if exchange.kind in ("before", "action"):
        return NONE, NONE, named[0], NONE
    return SILENT


def _captioned(kind: str, answer: Sequence[str], colors: Sequence[int]) -> list[Spoken]:
    """Before a caption, and after each of its tokens."""
    back = kind == "backwards"
    # The detailed caption begins with a sentence about no part.
    number = len(colors) - 1 if back else -1 if kind == "describe" else 0
    said = []
    for token in ("", *answer):
        number += (-1 if back else 1) * (token == _SEPARATORS[kind])
        if not 0 <= number < len(colors):
            said.append(SILENT)
        elif back:
            said.append((NONE, NONE, (*colors, NONE)[number + 1], NONE))
        else:
            said.append((number, (NONE, *colors)[number], NONE, NONE))
    return said
