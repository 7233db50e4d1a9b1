"""Results that are no timings of an op: rows, and what they were measured with, as JSON."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import rows


class Record(NamedTuple):
    """One run of a program that measures."""

    machine: Mapping[str, Any]
    """Command, device, versions, commit and time, named as in a result file's columns."""
    rows: Sequence[Mapping[str, Any]]


def write(
    path: Path,
    module: str,
    found: Sequence[Mapping[str, Any]],
    device: torch.device | None = None,
) -> None:
    """Write what `python -m module`, run with this process's arguments, has found on `device`, by
    default the CPU."""
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    machine = asdict(rows.machine(command, device or torch.device("cpu")))
    machine["transformers"] = version("transformers")
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "rows": list(found)}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def made_by(path: Path) -> str:
    """Of the record in `path`: command, machine, versions, commit, changes to it, and day."""
    machine = read(path).machine
    changes = " and changes" if machine["dirty"] else ""
    command = str(machine["command"]).split(" --json")[0]
    parts = [f"`{command}`", machine["device"], f"torch {machine['torch']}"]
    parts += [f"transformers {machine['transformers']}", f"commit {machine['commit']}{changes}"]
    return "; ".join([*parts, str(machine["time"])[:10]])


def read(path: Path) -> Record:
    """What `write` wrote. Raises `ValueError` if the file holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Record(content["machine"], content["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a record of rows and a machine") from error
