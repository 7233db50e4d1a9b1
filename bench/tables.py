"""Numbers in README and docs, written there from result files and never by hand.

    python -m bench.tables            # rewrite what is generated in README.md and docs
    python -m bench.tables --check    # say what is stale, and end with 1 if anything is

A block stands between `<!-- begin: bench.tables NAME -->` and `<!-- end: bench.tables -->`. A
number in a sentence stands between markers that name its row:

    <!-- number: FILE | WORD=VALUE; WORD=VALUE | COLUMN | FORMAT -->2.24<!-- /number -->

FILE lies in bench/results; the words are columns that one row alone has so; FORMAT is Python's.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import blocks, kernel_blocks, records, rows
from bench.rows import RESULTS

_ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(
    r"(<!-- begin: bench\.tables (?P<name>[\w-]+) -->\n).*?(<!-- end: bench\.tables -->)", re.DOTALL
)
_NUMBER = re.compile(r"(<!-- number: (?P<what>[^>]*?) -->).*?(<!-- /number -->)", re.DOTALL)
_BLOCKS = blocks.BLOCKS | kernel_blocks.BLOCKS
NOT_MEASURED = "not yet measured"


def documents() -> list[Path]:
    docs = _ROOT / "docs"
    return [_ROOT / "README.md", *sorted([*docs.glob("*.md"), *docs.glob("kernels/*.md")])]


def rendered(text: str, results: Path = RESULTS) -> str:
    """`text` with everything that is generated made anew from the files in `results`.

    Raises:
        ValueError: a block of no known name, a number whose row is not there.
    """

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in _BLOCKS:
            raise ValueError(f"no block {name}: there are {', '.join(_BLOCKS)}")
        return f"{match[1]}{_BLOCKS[name](results)}\n{match[3]}"

    text = _BLOCK.sub(block, text)
    return _NUMBER.sub(lambda match: f"{match[1]}{number(match['what'], results)}{match[3]}", text)


def number(what: str, results: Path = RESULTS) -> str:
    """The value that `FILE | WORD=VALUE; ... | COLUMN | FORMAT` names."""
    parts = [part.strip() for part in what.split("|")]
    if len(parts) != 4:
        raise ValueError(f"number: FILE | WORD=VALUE; ... | COLUMN | FORMAT, got {what!r}")
    file, where, column, how = parts
    path = results / file
    if not path.exists():
        return NOT_MEASURED
    words = dict(word.strip().split("=", 1) for word in where.split(";"))
    found = [row for row in _rows(path) if all(str(row.get(w)) == v for w, v in words.items())]
    if len(found) != 1:
        raise ValueError(f"{file}: {len(found)} rows have {where}, expected one")
    value = found[0].get(column)
    if value is None:
        raise ValueError(f"{file}: {where}: no {column}")
    return format(value, how)


def _rows(path: Path) -> Sequence[Mapping[str, Any]]:
    if path.suffix == ".json":
        return records.read(path).rows
    return [asdict(row) for row in rows.read(path)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="change nothing, say what is stale")
    arguments = parser.parse_args(argv)
    stale = 0
    for path in documents():
        text = path.read_text(encoding="utf-8")
        anew = rendered(text)
        if anew == text:
            continue
        stale += 1
        if arguments.check:
            print(f"{path.relative_to(_ROOT)}: stale (python -m bench.tables)")
        else:
            path.write_text(anew, encoding="utf-8")
            print(f"{path.relative_to(_ROOT)}: written")
    return int(arguments.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
