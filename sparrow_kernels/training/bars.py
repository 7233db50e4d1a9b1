"""Progress on stderr: a bar where a terminal shows one, a line a minute in a file or a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 60.0
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {elapsed}{postfix}"


def bar(steps: Iterable | None = None, *, logged: bool = False, **about: Any) -> tqdm:
    """A bar of tqdm, over `steps` or to be updated.

    Args:
        logged: whether a file or a pipe gets lines; nothing otherwise.
        about: further arguments of tqdm.
    """
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return tqdm(steps, dynamic_ncols=True, **about)
    return _Lines(steps, **about) if logged else tqdm(steps, **about | {"disable": True})


class _Lines(tqdm):
    """A line now and then, and one at the end."""

    def __init__(self, steps: Iterable | None, **about: Any) -> None:
        often = {"mininterval": _SECONDS_BETWEEN_LINES, "maxinterval": _SECONDS_BETWEEN_LINES}
        self._shown: int | None = about.get("initial", 0)  # there is nothing to say of it yet
        super().__init__(steps, bar_format=_LINE, leave=False, **often, **about)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if self.n != self._shown:
            self._shown = self.n
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return False  # nothing to take away at the end
