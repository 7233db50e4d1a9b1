"""Files that a command writes: new ones, unless it is told otherwise, and whole ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FORCE = "overwrite what is there"
"""What `--force` does, wherever there is one."""


def check_new(name: str, file: Path | None, force: bool) -> None:
    """Raise `ValueError` where `file`, which the user knows as `name`, would be overwritten."""
    if file is None:
        return
    if file.is_dir():
        raise ValueError(f"{name} must be a file, got {file}, which is a folder")
    if file.exists() and not force:
        raise ValueError(f"{name} must be new, got {file}, which exists (--force overwrites it)")


def check_new_model(folder: Path, force: bool, hint: str, **sources: str | Path | None) -> None:
    """Raise `ValueError` where --out is no folder, or one with a model that would be overwritten.

    Args:
        force: overwrite any model but `sources`, which are read meanwhile.
        hint: the way on.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out must be a folder, got {folder}, which is a file")
    for whose, source in sources.items():
        if source is not None and folder.resolve() == Path(source).resolve():
            raise ValueError(
                f"--out must be another folder, got {folder}, which is the {whose}'s own"
            )
    if not force and (any(folder.glob("*.safetensors")) or (folder / "config.json").exists()):
        raise ValueError(f"--out must be new, got {folder}, which holds a model ({hint})")


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
