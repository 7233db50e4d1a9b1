"""Folders of models that a command is given, looked at before the seconds that imports take."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

_HUB_NAME = re.compile(r"[\w.-]+/([\w.-]+)")


def check_pair(arguments: argparse.Namespace) -> None:
    """Raise `ValueError` where `--target` or `--draft` is no folder that can be loaded."""
    check_target(arguments.target)
    # What else a draft may be, such as a name on the hub, its loader knows.
    if arguments.draft is not None and arguments.draft.is_dir():
        check_weights(arguments.draft)


def check_target(target: Path | None, *, weights: bool = True) -> None:
    """Raise `ValueError` where `--target` is no folder that holds a model of transformers.

    Args:
        weights: whether they are needed, or the configuration alone.
    """
    if target is None:
        return
    must_be = "--target must be a folder with a model of transformers"
    if not target.exists():
        found = _HUB_NAME.fullmatch(str(target))
        is_name = found is not None and not target.parent.exists()
        way_on = f" ({_download(str(target), found[1])})" if found and is_name else ""
        raise ValueError(f"{must_be}, got {target}: there is no such folder{way_on}")
    if not target.is_dir():
        raise ValueError(f"{must_be}, got {target}, which is a file")
    for wanted in ("config.json", "*.safetensors")[: 1 + weights]:
        if not any(target.glob(wanted)):
            raise ValueError(f"{must_be}, got {target} without {wanted}")
    if weights:
        check_weights(target)


def check_weights(folder: Path) -> None:
    """Raise `ValueError` for safetensors that are cut off, as a download that was interrupted is.

    A header says where each tensor lies: eight bytes of its own length, then JSON.
    """
    for file in _read(folder):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            size = os.fstat(opened.fileno()).st_size
            try:
                header = json.loads(opened.read(length) if 8 + length <= size else b"")
                header.pop("__metadata__", None)
                ends = [each["data_offsets"][1] for each in header.values()]
                whole = 8 + length + max(ends, default=0)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError):
                whole = None
        if whole != size:
            got = ", got a damaged header" if whole is None else f" of {whole} bytes, got {size}"
            raise ValueError(f"{file} must be a whole safetensors file{got} (fetch it again)")


def _read(folder: Path) -> list[Path]:
    """The files that transformers reads of those that lie there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} must say which file holds which weight") from error
        if missing := sorted(name for name in names if not (folder / name).is_file()):
            raise ValueError(f"{folder} must hold {missing[0]}, which {index.name} names")
        return sorted(folder / name for name in names)
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def _download(name: str, folder: str) -> str:
    return (
        f"a model of the hub is downloaded first: hf download {name} --local-dir {folder}, then"
        f" --target {folder}"
    )
