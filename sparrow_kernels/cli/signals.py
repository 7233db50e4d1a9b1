"""Signals that ask the process to end, as exceptions: what is half written is cleaned up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """SIGTERM or SIGHUP came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number  # as shells say it


@contextmanager
def signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated` inside the block; a second one ends the process.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    ours = [n for n in numbers if n is not None and signal.getsignal(n) == signal.SIG_DFL]

    def leave_to_the_system() -> None:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)

    def end(number: int, _: FrameType | None) -> None:
        leave_to_the_system()
        raise Terminated(number)

    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        leave_to_the_system()
