"""Exit statuses, and what a user is told about an error: one line, with the way on.

What the command line alone tells to be wrong is found before anything is done, and is status 2: an
option, its value, options that do not go together, a place where nothing may be written. What is
found in the doing is status 1: a clip, a model, data, a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sparrow_kernels.cli.signals import Terminated
from sparrow_kernels.cli.streams import STDOUT
from sparrow_kernels.video_shim import unavailable

FAILED = 1
USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
STATUSES = {
    0: "done",
    FAILED: "an error: in a clip, a model, data, or on the way",
    USAGE: "a wrong command line, of which nothing was done",
    INTERRUPTED: "interrupted",
    BROKEN_PIPE: "who read stdout left early",
    143: "terminated",
}
"""Of every command but `bench`, whose own it is."""

_LONGEST = 400
_VIDEO_PACKAGES = ("av", "PIL")
# What the package raises on purpose, with a message for users; anything else names its type.
_WRITTEN_FOR_USERS = (ValueError, TypeError, NotImplementedError, ImportError)


class WrongCommandLine(ValueError):
    """What a command line asks for cannot be done; found when it had been parsed."""


@contextmanager
def wrong_command_line() -> Iterator[None]:
    """Whatever is refused inside the block is the command line's fault."""
    try:
        yield
    except (*_WRITTEN_FOR_USERS, OSError) as error:
        raise WrongCommandLine(explain(error)) from error


@contextmanager
def told_when_cut(left: Callable[[], str]) -> Iterator[None]:
    """Whoever ends the block by a signal is told what is left of it, as `left` says by then."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as cut:
        cut.add_note(left())
        raise


def status_of(error: BaseException) -> int:
    """The exit status that tells of an error."""
    if isinstance(error, Terminated):
        return error.status
    if isinstance(error, WrongCommandLine):
        return USAGE
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return BROKEN_PIPE if reader_left(error) else FAILED


def reader_left(error: BaseException) -> bool:
    """Whether who read our stdout is gone, as `head` is once it has its lines: nothing to tell."""
    return isinstance(error, BrokenPipeError) and error.filename == STDOUT


def explain(error: BaseException) -> str:
    """One line that says what went wrong."""
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        happened = "interrupted" if isinstance(error, KeyboardInterrupt) else "terminated"
        left = "; ".join(getattr(error, "__notes__", ()))
        return one_line(f"{happened} before it was done" + (f" ({left})" if left else ""))
    if isinstance(error, ImportError):
        if "torchvision" in str(error).lower() and (lacking := unavailable()) is not None:
            return one_line(f"torchvision is needed here: {lacking}")
        missing = _missing_video_package(error)
        if missing:
            return f"{missing} is not installed (pip install 'sparrow_kernels[video]')"
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        message = f"{error.strerror}{where}"
    elif not isinstance(error, (*_WRITTEN_FOR_USERS, OSError)) or not message.strip():
        message = f"{type(error).__name__}: {message} (SPARROW_TRACEBACK=1 shows where)"
    return one_line(message)


def one_line(text: str) -> str:
    """`text` as one line of at most 400 characters, none of which moves a terminal's cursor."""
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join(text.split())
    )
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 2]} …"


def _missing_video_package(error: ImportError) -> str | None:
    """The optional package an import error is about, however transformers words it."""
    top = (error.name or "").partition(".")[0]
    if top in _VIDEO_PACKAGES:
        return top
    message = str(error).lower()
    named = (name for name in _VIDEO_PACKAGES[1:] if f"{name.lower()} library" in message)
    return next(named, None)
