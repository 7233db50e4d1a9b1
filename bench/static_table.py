"""The table of `bench.static` as a file: a row a kernel, architecture and compiler."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from bench.rows import RESULTS

TABLE = RESULTS / "static.csv"
COLUMNS = (
    "kernel", "arch", "registers", "smem_bytes", "stack_bytes", "spill_bytes", "tensor_core_ops",
    "async_copies", "occupancy", "threads", "wait_distance", "bytes_in_flight", "gpu_fences",
    "hazards", "issue_cycles", "tensor_cycles", "exp_cycles", "compiler", "sources",
)  # fmt: skip
Row = dict[str, str]
Pair = tuple[str, int]
"""A kernel's name and an architecture."""


def pair(row: Row) -> Pair:
    return row["kernel"], int(row["arch"].removeprefix("sm_"))


def read(path: Path = TABLE) -> list[Row]:
    """Its rows, none where there is no such file. Raises `ValueError` if it is another one."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if not {"kernel", "arch", "registers", "compiler"} <= set(table.fieldnames or ()):
            raise ValueError(f"{path}: not a table of bench.static")
        # A table from before a column was added is stale where it says nothing.
        return [dict.fromkeys(COLUMNS, "") | row for row in table]


def write(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
