"""What each token adds to a text."""

from __future__ import annotations

from typing import Any

_WINDOW = 16
"""Tokens decoded together: enough for what one does to the next, few enough for long texts."""


def words_of(tokenizer: Any, tokens: list[int]) -> list[str]:
    """The text that each of `tokens` adds; together they are the text.

    A character of several tokens comes with the last of them. Special tokens add nothing.
    """

    def text(begin: int, end: int) -> str:
        return tokenizer.decode(tokens[begin:end], skip_special_tokens=True)

    words, begin, said = [], 0, ""
    for end in range(1, len(tokens) + 1):
        whole = text(begin, end)
        if whole.endswith("\ufffd") and end < len(tokens):
            words.append("")
            continue
        words.append(whole[len(said) :])
        said = whole
        if end - begin > _WINDOW:
            begin, said = end - 1, text(end - 1, end)
    return words
