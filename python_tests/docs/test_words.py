"""One vocabulary in README, docs and `--help`: that of docs/design.md."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from doc_pages import PAGES, ROOT

from sparrow_kernels.cli.main import _parser

# What others call it, and we do not.
NOT_OURS = re.compile(
    r"\b(drafters?|draft models?|verifiers?|vision tokens?"
    r"|(video|image) tokens?|accepted length|acceptance (length|rate)|candidate tokens?)\b",
    re.IGNORECASE,
)


def helps(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    yield parser.prog, parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from helps(command)


def test_nobody_else_s_words() -> None:
    texts = [(page.relative_to(ROOT).as_posix(), page.read_text()) for page in PAGES]
    found = [
        (where, match[0]) for where, text in [*texts, *helps(_parser())]
        for match in NOT_OURS.finditer(text)
    ]  # fmt: skip
    assert found == []
