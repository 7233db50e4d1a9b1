"""Run the benchmarks of a checkout: everything after `bench` goes to `python -m bench.run`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HELP = "run the benchmarks of a checkout (python -m bench.run ...)"


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
    status = subprocess.call([sys.executable, "-m", "bench.run", *rest], cwd=checkout)
    return status if status >= 0 else 128 - status  # ended by a signal, as shells say it


def _checkout() -> Path | None:
    """The checkout this package is imported from, else the one we stand in."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (folder / "bench" / "run.py").is_file():
            return folder
    return None
