"""Checkpoints of a run: written whole or not at all, so that a run can be cut at any moment."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch


def write_whole(content: Any, path: Path) -> None:
    """Write beside the old file, then put the new one in its place.

    Raises:
        OSError: the disk is full, or the like; the old file is as it was.
    """
    fresh = path.with_suffix(".new")
    try:
        with fresh.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except (OSError, RuntimeError) as error:
        fresh.unlink(missing_ok=True)
        kept = "what was written before is kept" if path.exists() else "nothing was written"
        raise OSError(f"{path} cannot be written: {error} ({kept})") from error


def load_whole(path: Path) -> Any:
    """What was written, on the CPU; None where there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} must be a checkpoint, got a damaged file (--fresh)") from error
