"""Run the benchmarks of a checkout: everything after `bench` goes to `python -m bench.run`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparrow_kernels.cli.signals import Terminated

HELP = "run the benchmarks of a checkout (python -m bench.run ...)"
_LAST_WORDS_S = 10
"""Calls of the slowest backends take seconds, and are not left before they end."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "rest", nargs="*", metavar="...", help="see python -m bench.run --help in a checkout"
    )
    parser.print_help = lambda file=None: _print_help(parser, file)  # type: ignore[method-assign]


def _print_help(parser: argparse.ArgumentParser, file: Any) -> None:
    """Where there is a checkout, its options: they are none of this parser's."""
    if _checkout() is None:
        print(parser.format_help(), end="", file=file)
    else:
        run(["--help"])


def run(rest: Sequence[str]) -> int:
    checkout = _checkout()
    if checkout is None:
        raise ValueError(
            "sparrow bench needs a checkout, and found no bench/run.py (clone the repository,"
            " install it with pip install -e, and run sparrow bench in it)"
        )
    # Not run in the checkout: paths among the words are of the folder one stands in. -P keeps what
    # lies in there from being taken for our bench.
    found = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bench.run", *rest], env={**os.environ, "PYTHONPATH": found}
    )
    try:
        status = process.wait()
    except (KeyboardInterrupt, Terminated) as cut:
        # The run ends its call and says what it wrote. Ctrl-C it got too, other signals it did not.
        if isinstance(cut, Terminated):
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORDS_S)
        raise
    finally:
        process.kill()  # does nothing to one that has ended
    return status if status >= 0 else 128 - status  # ended by a signal, as shells say it


def _checkout() -> Path | None:
    """The checkout this package is imported from, else the one we stand in."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (folder / "bench" / "run.py").is_file():
            return folder
    return None
