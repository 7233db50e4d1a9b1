"""`--clips`: a number of clips to generate, or a user's own video files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparrow_kernels.cli.arguments import clip, whole

MOST_CLIPS = 10_000
_ENDINGS = {
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".ogv", ".ts", ".webm", ".wmv"),
}


class ClipsAction(argparse.Action):
    """Reads the words of `--clips` into a number, or leaves them as paths for `files`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        try:
            setattr(namespace, self.dest, _clips(list(values or ())))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def _clips(words: list[str]) -> int | list[str]:
    if len(words) == 1 and re.fullmatch(r"[-+]?[0-9]+", words[0]):
        return whole(1, MOST_CLIPS)(words[0])
    if twice := [word for place, word in enumerate(words) if word in words[:place]]:
        raise argparse.ArgumentTypeError(f"must name each clip once, got {twice[0]} twice")
    return [clip(word) for word in words]


def files(words: Sequence[str]) -> list[Path]:
    """The files that are named, and the videos of the folders.

    Raises:
        ValueError, FileNotFoundError: there is no such file; a folder holds no video; a file is
            named twice; a number among paths.
    """
    found: list[Path] = []
    for word in words:
        found += _videos(word)
    for number, each in enumerate(found):
        if any(each.samefile(other) for other in found[:number]):
            raise ValueError(f"clip {each} is named twice")
    return found


def _videos(word: str) -> list[Path]:
    from sparrow_kernels.video.source import clip_path

    place = Path(word)
    if not place.is_dir():
        return [clip_path(word)]
    videos = sorted(
        each
        for each in place.iterdir()
        if each.suffix.lower() in _ENDINGS and each.is_file() and not each.name.startswith(".")
    )
    if not videos:
        raise ValueError(f"folder {place} holds no video ({' '.join(sorted(_ENDINGS))})")
    return videos
