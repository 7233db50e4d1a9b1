"""What the result files of a suite say together: the gate, floors, peers, what did not run.

    python -m bench.summary bench/results/bench-attention.csv bench/results/bench-draft.csv

Ends with 1 if the gate refused one of our own backends, or nothing of ours has a time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import rows
from bench.report import measured_nothing, print_summary


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.summary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, nargs="+", help="CSV files of bench.run")
    arguments = parser.parse_args(argv)
    try:
        found = [row for path in arguments.results for row in rows.read(path)]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    devices = sorted({row.device for row in found})
    print(f"{len(found)} rows, {', '.join(devices) or 'none'}")
    print_summary(found)
    refused = any(row.ours and row.status == rows.REFUSED for row in found)
    return int(refused or measured_nothing(found))


if __name__ == "__main__":
    sys.exit(main())
