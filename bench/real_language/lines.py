"""Files of JSON records, one a line, that a kill at any moment leaves good."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def whole(path: Path) -> list[dict[str, Any]]:
    """What was appended; a last line that a kill has torn is cut off. Empty without a file."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if complete != content:
        path.write_bytes(complete)
    return [json.loads(line) for line in complete.splitlines()]


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write all lines, or none."""
    partial = path.with_suffix(".partial")
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
