"""`sparrow` as a process of its own, forked from one that has imported what takes it seconds.

For what a signal, a terminal or a stream does to a command that is under way. What a fresh
interpreter does, and what an import may do, is asked of a fresh one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from fork_server import forked

from sparrow_kernels.cli import main

ROOT = Path(__file__).resolve().parents[2]


def started(words: Sequence[str], streams: Sequence[int], before: str = "") -> ForkServerProcess:
    """It, on these stdin, stdout and stderr, after running the code `before`."""
    # Of a process that is forked elsewhere only connections are handed over.
    handed = [Connection(os.dup(each)) for each in streams]
    process = forked(run, words, handed, before)
    for each in handed:
        each.close()
    return process


def run(words: Sequence[str], handed: Sequence[Connection], before: str) -> None:
    os.setsid()
    os.chdir(ROOT)
    for number, stream in enumerate(handed):
        os.dup2(stream.fileno(), number)
        stream.close()
    # As an interpreter makes them: by lines on a terminal, by blocks elsewhere.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    exec(before, {})
    sys.exit(main(words))
