"""A draft's files: a configuration, and weights by name. Nothing here knows a format."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_PICKLED = ("*.bin", "*.pt", "*.pth")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w./-]+)?")


class DraftFiles(NamedTuple):
    """What a folder holds."""

    where: str
    """As the caller named it."""
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def read_files(path: str | Path, *, pickled: bool = False) -> DraftFiles:
    """Read a draft's configuration and weights.

    Args:
        path: a directory, or `owner/name` on the hub, where a subfolder may follow.
        pickled: read weights that are pickled too. They are read as tensors alone: what else a
            pickle asks for is refused.

    Raises:
        TypeError: `path` is no path.
        ValueError: there is no such directory, or what is in it cannot be read whole.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"draft: must be a directory or a name on the hub, got {type(path).__name__}"
            " (load_draft takes the draft's path, then the target)"
        )
    folder = _folder(path, pickled)
    config = _config(folder)
    files = sorted(folder.glob("*.safetensors"))
    if files:
        read = _safetensors
    else:
        files = sorted(each for pattern in _PICKLED for each in folder.glob(pattern))
        read = _pickle
        if not files:
            raise ValueError(f"draft: must be a directory with weights, got {path} without any")
        if not pickled:
            raise ValueError(
                f"draft: must be safetensors, got {files[0].name} in {path}, which is pickled"
                " (sparrow draft convert reads it once and writes safetensors)"
            )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read(file)
    _check_whole(folder, tensors)
    return DraftFiles(str(path), folder, config, tensors)


def _folder(path: str | Path, pickled: bool) -> Path:
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"draft: must be a directory, got {path}, which is a file")
    if _HUB_ID.fullmatch(str(path)) is None:
        raise ValueError(f"draft: must be a directory, got {path}, which is not there")
    return _fetched(str(path), pickled)


def _fetched(name: str, pickled: bool) -> Path:
    """The files of a draft on the hub, and no others."""
    from huggingface_hub import snapshot_download

    owner, repository, *below = name.split("/", 2)
    prefix = f"{below[0].rstrip('/')}/" if below else ""
    wanted = ["config.json", "*.safetensors", "*.safetensors.index.json"]
    wanted += _PICKLED if pickled else ()
    try:
        fetched = snapshot_download(
            f"{owner}/{repository}",
            allow_patterns=[prefix + each for each in wanted],
            ignore_patterns=[f"{prefix}*/*"],  # the hub's * goes into folders
        )
    except Exception as error:  # what the hub raises has no base class of its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"draft: must be a directory or a name on the hub, got {name}, which is no directory"
            f" here, and the hub says: {reason[0]}"
        ) from error
    return Path(fetched, *below)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"draft: must be a directory with a config.json, got {folder} without one")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"draft: {file} must be JSON, got: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"draft: {file} must hold an object, got {type(config).__name__}")
    return config


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"draft: {file} must be a whole safetensors file, got: {error} (fetch it again)"
        ) from error


def _pickle(file: Path) -> dict[str, Tensor]:
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle lead to errors of any kind
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch advises to run it all the same
        got = f"one that asks for {asked[1]}" if asked else "one that is broken or holds more"
        raise ValueError(
            f"draft: {file} must hold tensors alone, got {got} (fetch it again, or ask for"
            " safetensors)"
        ) from error
    if not isinstance(held, dict):
        raise ValueError(f"draft: {file} must hold tensors by name, got {type(held).__name__}")
    for name, each in held.items():
        if not isinstance(name, str) or not isinstance(each, Tensor):
            raise ValueError(
                f"draft: {file} must hold tensors by name, got {type(each).__name__} for {name!r}"
            )
    return held


def _check_whole(folder: Path, tensors: dict[str, Tensor]) -> None:
    """All that an index names is there."""
    for index in folder.glob("*.index.json"):
        try:
            named = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"draft: {index} must name weights and their files") from error
        missing = sorted(set(named) - set(tensors))
        if missing:
            raise ValueError(
                f"draft: all weights of {index.name} must be there, got none for"
                f" {', '.join(missing[:4])} ({len(missing)} in all, of"
                f" {', '.join(sorted({str(named[each]) for each in missing})[:4])})"
            )
