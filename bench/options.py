"""What the benchmarks are told on their command lines, refused before they begin: they take minutes
to hours, and write what they found at the end.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

_MOST = 10**9
"""More than any benchmark could count to, and less than what overflows where it is counted."""


def count(text: str) -> int:
    """A whole number from 1 on: of nothing there is nothing to say."""
    if not text.isdecimal() or not text.strip("0"):
        raise ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    if len(text.lstrip("0")) > len(str(_MOST)) or int(text) > _MOST:
        raise ArgumentTypeError(f"must be at most {_MOST:,}, got {text[:40]!r}")
    return int(text)


def clip_length(text: str) -> int:
    """Visual tokens of a clip of the easy world."""
    length = count(text)
    refuse_lengths([length])
    return length


def refuse_lengths(lengths: Sequence[int], world: str = "easy") -> None:
    """Raise `ArgumentTypeError` where the clips of a world are never as short or as long."""
    from sparrow_kernels.embedded.worlds import WORLDS  # here, since it loads torch

    for length in lengths:
        try:
            WORLDS[world].clip_shape(length)
        except ValueError as error:
            said = str(error).removeprefix("visual_tokens ")
            raise ArgumentTypeError(f"{said} (clips of the {world} world)") from None


def at_most(most: int) -> Callable[[str], int]:
    """A count that ends somewhere."""

    def count_so_far(text: str) -> int:
        number = count(text)
        if number > most:
            raise ArgumentTypeError(f"must be at most {most:,}, got {text!r}")
        return number

    return count_so_far


def seconds(text: str) -> float:
    return _from_zero(text, "seconds")


def percent(text: str) -> float:
    return _from_zero(text, "a percentage")


def _from_zero(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not number >= 0:
        raise ArgumentTypeError(f"must be {what} from 0 on, got {text!r}")
    return number


def tree(text: str) -> str:
    """A draft tree in words, as it came."""
    # Here, since it loads torch: a benchmark may have yet to set what torch reads by then.
    from sparrow_kernels import TreeConfig

    try:
        TreeConfig.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return text


def to_write(text: str) -> Path:
    """A file that can be written; one that is there stays as it is until then."""
    path = Path(text)
    is_new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise ArgumentTypeError(f"cannot be written: {error}") from None
    if is_new:
        path.unlink()
    return path


def file_name(text: str) -> str:
    """A name alone: with a folder in it, what is written would lie outside the folder asked for."""
    if text in ("", "..") or "\0" in text or Path(text).name != text:
        raise ArgumentTypeError(f"must be a name alone, got {text!r} (--out is its folder)")
    return text


def no_plots() -> str:
    """Why nothing can be drawn here, with the way on; empty where it can."""
    if find_spec("matplotlib") is None:
        return "matplotlib is not installed (pip install 'sparrow-kernels[bench]')"
    return ""
