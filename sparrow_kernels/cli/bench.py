"""Run the benchmarks of a checkout: everything after `bench` goes to `python -m bench.run`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HELP = "run the benchmarks of a checkout (python -m bench.run ...)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "rest", nargs="*", metavar="...", help="see python -m bench.run --help in a checkout"
    )


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
