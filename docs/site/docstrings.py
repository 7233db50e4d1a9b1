"""Our docstrings in the words that griffe knows. They are Google's but for three habits."""

from __future__ import annotations

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"(?:^>>> .*\n?(?:(?!\n).+\n?)*\n?)+", re.MULTILINE)
_NEXT_ERROR = re.compile(r"(?<=[.)]) (?=(?:\w+Error): )")


def as_google(text: str) -> str:
    """`text` with fields as attributes, an error a line, and its doctest as a block of code."""
    text = re.sub(r"^Fields:$", "Attributes:", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=^Raises:\n).*", _errors, text, flags=re.MULTILINE)
    return _DOCTEST.sub(lambda code: f"```pycon\n{code[0].rstrip()}\n```\n", text)


def _errors(line: re.Match[str]) -> str:
    return _NEXT_ERROR.sub("\n    ", line[0])


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_google(obj.docstring.value)
