"""Which part a text token is about to speak of: what the hint (see `order`) asks of text.

Only where that can be told from the text before it: by counting what was said, or from the ordinal
in a question. Asked also for parts that are named or told backwards, which takes a look at the
clip, the text learnt nothing in 500 steps, and the rest slower.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparrow_kernels.embedded.questions import Exchange

NONE = -100
# What ends a part in a caption.
_SEPARATORS = {"describe": ".", "brief": ",", "list": ";"}


def spoken_numbers(exchange: Exchange, answer: Sequence[str], parts: int) -> list[int]:
    """The number of the part, from 0: before the answer, and after each of its tokens.

    answer: its tokens as text. -100 where no part is spoken of, or none known by counting.
    """
    if exchange.part is not None:
        return [exchange.part] * (len(answer) + 1)
    if exchange.kind not in _SEPARATORS:
        return [NONE] * (len(answer) + 1)
    # The detailed caption begins with a sentence about no part.
    number = -1 if exchange.kind == "describe" else 0
    numbers = [number]
    for token in answer:
        number += token == _SEPARATORS[exchange.kind]
        numbers.append(number)
    return [each if 0 <= each < parts else NONE for each in numbers]
