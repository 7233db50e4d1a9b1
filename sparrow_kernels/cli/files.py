"""Files that a command writes: new ones, unless it is told otherwise, and whole ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_new(name: str, file: Path, force: bool) -> None:
    """Raise `ValueError` where `file`, which the user knows as `name`, would be overwritten."""
    if file.is_dir():
        raise ValueError(f"{name} must be a file, got {file}, which is a folder")
    if file.exists() and not force:
        raise ValueError(f"{name} must be new, got {file}, which exists (--force overwrites it)")


@contextmanager
def written_together(*files: Path) -> Iterator[tuple[Path, ...]]:
    """Hidden files to write instead of `files`, renamed at the end: all whole, or none there."""
    hidden = tuple(file.with_name(f".{os.getpid()}-{file.name}") for file in files)
    try:
        yield hidden
        for written, file in zip(hidden, files, strict=True):
            written.replace(file)
    except OSError as error:
        # Name the file asked for: nobody knows the hidden one.
        raise OSError(error.errno, error.strerror, str(files[0])) from error
    finally:
        for written in hidden:
            written.unlink(missing_ok=True)
