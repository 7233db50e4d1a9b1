"""Results that are there already: a run overwrites none that is committed, and keeps the others."""

from __future__ import annotations

import subprocess
from pathlib import Path

_RESULTS = Path(__file__).resolve().parent / "results"


def _files(stem: Path) -> list[Path]:
    return [stem.with_name(stem.name + end) for end in (".csv", ".json")]


def set_aside(stem: Path) -> list[Path]:
    """Move the files of an earlier run into the folder `earlier`, under the first free number: this
    one may measure less, or end early. Where they are now."""
    found = [path for path in _files(stem) if path.is_file()]
    if not found:
        return []
    folder = stem.parent / "earlier"
    folder.mkdir(exist_ok=True)
    number = 1
    while any(path.exists() for path in _files(folder / f"{stem.name}-{number}")):
        number += 1
    return [path.rename(folder / f"{stem.name}-{number}{path.suffix}") for path in found]


def refuse_committed(stem: Path) -> None:
    """Raise `ValueError` where a run would overwrite a result that is committed."""
    for path in _files(stem):
        if is_committed(path):
            raise ValueError(
                f"{path} is committed: a run does not overwrite it (write elsewhere, by --out or"
                " --name, look at it, and copy it over)"
            )


def is_committed(path: Path) -> bool:
    """Whether git has it. An archive of the sources has no git to ask, but the same results."""
    if not path.is_file():
        return False
    if git("rev-parse", "--is-inside-work-tree") != "true":
        return path.resolve().parent == _RESULTS
    return bool(git("ls-files", str(path.resolve())))


def git(*words: str) -> str:
    """What git says about this checkout, empty where there is none of either."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
