"""Files of a run: whole or as they were before, at whatever moment it is cut."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place once it is whole and on the disk.

    Signals wait for that. Who is killed all the same leaves the old file, and the new one beside
    it, which the next one written replaces.

    Raises:
        OSError: the disk is full, or the like; the old file is as it was.
    """
    fresh = _beside(path)
    with signals_wait():
        try:
            yield fresh
            _to_disk(fresh)
            os.replace(fresh, path)
        except (OSError, RuntimeError) as error:
            kept = "what was written before is kept" if path.exists() else "nothing was written"
            raise OSError(f"{path} cannot be written: {error} ({kept})") from error
        finally:
            fresh.unlink(missing_ok=True)


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """A folder to write files in, each of which takes its place in `folder` once all are whole.

    For what is saved by a library, such as a model. Signals wait, as in `whole`.
    """
    fresh = folder / ".new"
    with signals_wait():
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            yield fresh
            files = [file for file in fresh.rglob("*") if file.is_file()]
            for file in files:
                _to_disk(file)
            for file in files:
                place = folder / file.relative_to(fresh)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP are heeded at the end of the block, however many came."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it gets signals
        return
    came: list[int] = []
    before: dict[int, Any] = {}

    def wait(number: int, _: FrameType | None) -> None:
        came.append(number)

    try:
        for number in (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.getsignal(number)
                signal.signal(number, wait)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def write_whole(content: Any, path: Path) -> None:
    """Write what `torch.save` takes; see `whole`."""
    with whole(path) as fresh, fresh.open("wb") as file:
        torch.save(content, file)


def load_whole(path: Path, *parts: str) -> Any:
    """What was written, on the CPU; None where there is no such file.

    Raises:
        ValueError: the file is damaged, or has other parts than `parts`.
    """
    _beside(path).unlink(missing_ok=True)  # of somebody who was killed in the middle of it
    if not path.exists():
        return None
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} must be a checkpoint, got a damaged file (--fresh)") from error
    if parts and set(parts) != set(found):
        raise ValueError(
            f"{path} must be a checkpoint with {', '.join(parts)}, got one with"
            f" {', '.join(found)}: a run of something else (another --out)"
        )
    return found


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
