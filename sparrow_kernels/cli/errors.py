"""Exit statuses, and what a user is told about an error: one line, with the way on."""

from __future__ import annotations

USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

_LONGEST = 400
_VIDEO_PACKAGES = ("av", "torchvision", "PIL")
# What the package raises on purpose, with a message for users; anything else names its type.
_WRITTEN_FOR_USERS = (ValueError, TypeError, NotImplementedError, ImportError)


def explain(error: BaseException) -> str:
    """One line that says what went wrong."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (what was written so far is incomplete)"
    if isinstance(error, ImportError):
        missing = _missing_video_package(error)
        if missing:
            return f"{missing} is not installed (pip install 'sparrow_kernels[video]')"
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        message = f"{error.strerror}{where}"
    elif not isinstance(error, (*_WRITTEN_FOR_USERS, OSError)) or not message:
        message = f"{type(error).__name__}: {message} (SPARROW_TRACEBACK=1 shows where)"
    return message if len(message) <= _LONGEST else f"{message[: _LONGEST - 2]} …"


def _missing_video_package(error: ImportError) -> str | None:
    """The optional package an import error is about, however transformers words it."""
    top = (error.name or "").partition(".")[0]
    if top in _VIDEO_PACKAGES:
        return top
    message = str(error).lower()
    named = (name for name in _VIDEO_PACKAGES[1:] if f"{name.lower()} library" in message)
    return next(named, None)
