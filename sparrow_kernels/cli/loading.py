"""The seconds before a command can begin: imports of torch and transformers, and models."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from sparrow_kernels.cli.terminal import ProgressBar


@contextmanager
def loading(bar: ProgressBar) -> Iterator[None]:
    """Say that it takes seconds, and do not look for garbage meanwhile: there is none yet.

    Imports make a few hundred thousand objects that stay, and Python's collector would look through
    all of them again and again: a fifth of the time.
    """
    bar.note("loading torch and transformers")
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
