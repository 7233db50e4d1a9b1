"""stdout and stderr as a command may use them: open, able to show any text, never in the way.

A stream that is closed from the start is one nobody reads. One that fails later is an error where
it is stdout, and where it is stderr there is nowhere left to say so: what was asked for goes on.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

STDOUT = "stdout"
"""The file name of an `OSError` about stdout."""


@contextmanager
def guarded_streams() -> Iterator[None]:
    """`sys.stdout` and `sys.stderr` guarded inside the block, and as before after it."""
    before = sys.stdout, sys.stderr
    with suppress(OSError):
        _occupy_closed_descriptors()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out, err = (nowhere if _is_closed(stream) else stream for stream in before)
        sys.stdout = cast(TextIO, _Guarded(out, forgives=False))
        sys.stderr = cast(TextIO, _Guarded(err, forgives=True))
        try:
            yield
        finally:
            with suppress(OSError, ValueError):  # said before, or about to be
                sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = before


def print_json(facts: Any) -> None:
    """One line of JSON that any stdout carries exactly: in ASCII, unless it is UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    line = json.dumps(facts, ensure_ascii=False, allow_nan=False)
    try:
        line.encode("utf-8")  # stray bytes in an environment variable cannot be
        exact = codecs.lookup(encoding).name == "utf-8"
    except UnicodeEncodeError:
        exact = False
    print(line if exact else json.dumps(facts, allow_nan=False))


class _Guarded:
    """A text stream that shows what its encoding has no character for as `\\xe9` or `\\u20ac`.

    Args:
        forgives: whether it goes on, to nowhere, when it cannot be written to. Otherwise it raises
            an `OSError` named stdout, and again at every `flush`: argparse keeps errors of `write`
            to itself.
    """

    def __init__(self, stream: TextIO, *, forgives: bool) -> None:
        self._stream = stream
        self._forgives = forgives
        self._failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._known_failures():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                # Of the stream, not of the error: that one calls cp1252 and its like "charmap".
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._known_failures():
            self._stream.flush()
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _known_failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _send_to_nowhere(self._stream)
            if not self._forgives:
                self._failure = OSError(error.errno, error.strerror, STDOUT)
                raise self._failure from error
        except ValueError:  # somebody closed it
            if not self._forgives:
                raise


def _is_closed(stream: TextIO | None) -> bool:
    return stream is None or getattr(stream, "closed", False)


def _occupy_closed_descriptors() -> None:
    """Open 0, 1 and 2 on nothing where they are closed.

    Otherwise the next file opened gets the number, and what C code prints lands in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(opened, True)


def _send_to_nowhere(stream: TextIO) -> None:
    """Let what `stream` still holds vanish: Python would complain when it flushes at its exit."""
    with suppress(OSError, ValueError, AttributeError):
        number = stream.fileno()
        opened = os.open(os.devnull, os.O_WRONLY)
        os.dup2(opened, number)
        os.close(opened)
