"""The pages of the documentation, and the code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

_FENCE = re.compile(r"( *)```(\w*)$")
_GENERATED = re.compile(
    r"<!-- begin: bench\.tables .*?<!-- end: bench\.tables -->|```.*?```", re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A block of code: fenced, or indented by four spaces behind an empty line."""

    path: Path
    line: int
    """Where its code begins."""
    language: str
    code: str

    @property
    def where(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    lines = path.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence, before = _FENCE.match(lines[number]), lines[number - 1] if number else ""
        begin = end = number
        if fence is not None:
            begin = end = number + 1
            while lines[end].strip() != "```":
                end += 1
            number = end + 1
        elif lines[number].startswith("    ") and not before.strip():
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            number = end
        else:
            number += 1
            continue
        margin = len(fence[1]) if fence else min(_margin(each) for each in lines[begin:end])
        code = "\n".join(each[margin:] for each in lines[begin:end]).rstrip()
        yield Block(path, begin + 1, fence[2] if fence else "", code)


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip()) if line.strip() else 99


def spans(path: Path) -> Iterator[str]:
    """Code within sentences, on one line each; what a result file wrote is left out."""
    text = _GENERATED.sub("", path.read_text(encoding="utf-8"))
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
        yield re.sub(r"\s+", " ", span)
