"""Result rows: one measured way of one case, with everything needed to believe it."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import sparrow_kernels
from bench import earlier

RESULTS = Path(__file__).resolve().parent / "results"
"""Where result files that are committed lie."""

OK = "ok"
REFUSED = "refused"
"""The gate found the result wrong, or the call failed: there is no time."""
UNAVAILABLE = "unavailable"
"""Not on this machine."""
NOT_RUN = "not run"
"""There was no time left for it."""
UNSTEADY = "unsteady"
"""The GPU's clock moved while it was measured, twice: there is no time."""


@dataclass(frozen=True)
class Machine:
    """Where and from what a run was made."""

    command: str
    device: str
    driver: str
    cuda: str
    torch: str
    triton: str
    version: str
    commit: str
    dirty: bool
    time: str


@dataclass(frozen=True)
class Row:
    """One line of a result file. Times in microseconds; empty where nothing was measured."""

    op: str
    case: str
    backend: str
    """Ours by its name, a peer by its own."""
    ours: bool
    dtype: str
    inputs: str
    """cold: rotated over sets of at least five times the last-level cache; hot: one set."""
    status: str
    reason: str
    us_p20: float | None
    us_p50: float | None
    us_p80: float | None
    samples: int
    bytes: int
    flops: int
    exps: int
    issued_flops: int | None
    """What the kernel's tiles really compute, padding included; empty where nobody counts it."""
    floor_us: float
    bound: str
    """Which of the three the floor comes from."""
    percent_of_floor: float | None
    stream_us: float | None
    """A read-only stream of as many bytes, in the same run."""
    us_eager: float | None
    """What the host does for a call on a GPU that is not captured."""
    sm_mhz: float | None
    """The clock of the multiprocessors meanwhile."""
    others_percent: float | None
    """Of the processors' time meanwhile, what other processes took, on a CPU."""
    command: str
    device: str
    driver: str
    cuda: str
    torch: str
    triton: str
    version: str
    commit: str
    dirty: bool
    time: str

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What identifies a measurement between two files."""
        return self.op, self.case, self.dtype, self.inputs, self.backend

    @property
    def doubt(self) -> str:
        """Why its time is not to be believed, empty where nothing speaks against it."""
        doubts = []
        if (self.percent_of_floor or 0) > _MOST_OF_FLOOR:
            doubts.append(f"{self.percent_of_floor:.0f} % of its floor")
        if self.us_p80 and self.us_p20 and self.us_p80 > _MOST_SPREAD * self.us_p20:
            doubts.append(f"between {self.us_p20:.3g} and {self.us_p80:.3g} µs")
        if (self.others_percent or 0) > _MOST_OF_OTHERS:
            doubts.append(f"others took {self.others_percent:.0f} % of the processors")
        return ", ".join(doubts)

    @property
    def parameters(self) -> dict[str, str]:
        """The case's shape: `prefix=4096 T=30` as a dict."""
        return dict(part.split("=", 1) for part in self.case.split())


_MOST_OF_FLOOR = 100.0
_MOST_OF_OTHERS = 10.0
"""Percent beyond which a time is doubted."""
_MOST_SPREAD = 2.0
"""Times its p20 beyond which a p80 says that the median is an accident."""
COLUMNS = tuple(field.name for field in fields(Row))
SWITCHES = ("SPARROW_WGMMA", "SPARROW_AUTOTUNE", "SPARROW_CPU_LEVEL", "SPARROW_BACKEND")
"""Of the environment, those that change what is measured."""
_LATER = ("us_eager", "sm_mhz", "others_percent")
"""Columns that files of before have not."""
_KINDS = {field.name: str(field.type) for field in fields(Row)}


class Writer:
    """Writes rows to `<stem>.csv` as they come, and, if asked, `<stem>.json` at the end. What an
    earlier run wrote there is kept."""

    def __init__(self, stem: Path, *, with_json: bool = True) -> None:
        stem.parent.mkdir(parents=True, exist_ok=True)
        self.kept = earlier.set_aside(stem)
        self._csv = stem.with_name(stem.name + ".csv")
        self._json = stem.with_name(stem.name + ".json") if with_json else None
        self._file = self._csv.open("w", newline="", encoding="utf-8")
        self._table = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")
        self._table.writeheader()
        self.rows: list[Row] = []

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self._csv, self._json) if path is not None]

    def write(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.rows.append(row)
            self._table.writerow({name: _text(value) for name, value in asdict(row).items()})
            self._file.flush()  # a run that is killed keeps whole lines

    def close(self) -> None:
        self._file.close()
        if self._json is None:
            return
        rows = [asdict(row) for row in self.rows]
        self._json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> list[Row]:
    """The rows of a CSV file. Raises `ValueError` if its columns are not those of a result file."""
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        had = set(table.fieldnames or ())
        if not set(COLUMNS) - set(_LATER) <= had <= set(COLUMNS):
            raise ValueError(
                f"{path}: not a result file (its columns must be {', '.join(COLUMNS)})"
            )
        return list(_parsed(table))


def machine(command: str, device: torch.device) -> Machine:
    """What there is to say about this run. Of folders of this machine `command` keeps the names;
    before it stand the switches that were set."""
    found = [f"{name}={os.environ[name]}" for name in SWITCHES if name in os.environ]
    on_gpu = device.type == "cuda"
    return Machine(
        command=without_folders(shlex.join([*found, *shlex.split(command)])),
        device=torch.cuda.get_device_name(device) if on_gpu else _cpu_name(),
        driver=_driver() if on_gpu else "",
        cuda=torch.version.cuda or "" if on_gpu else "",
        torch=torch.__version__,
        triton=_version("triton"),
        version=sparrow_kernels.__version__,
        commit=os.environ.get("SPARROW_COMMIT") or earlier.git("rev-parse", "--short=12", "HEAD"),
        dirty=bool(earlier.git("status", "--porcelain", "--untracked-files=no")),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def without_folders(command: str) -> str:
    """`command` with absolute paths cut: to what lies in the checkout, else to their last name."""
    root = str(RESULTS.parents[1])

    def cut(word: str) -> str:
        if not word.startswith("/"):
            return word
        path = Path(word)
        return str(path.relative_to(root) if path.is_relative_to(root) else path.name)

    return shlex.join(cut(word) for word in shlex.split(command))


def _parsed(table: Iterable[dict[str, Any]]) -> Iterator[Row]:
    for line in table:
        yield Row(**{name: _value(_KINDS[name], line.get(name, "")) for name in COLUMNS})


def _value(kind: str, text: str) -> Any:
    if kind == "bool":
        return text == "True"
    if kind.startswith("int"):
        return int(text) if text else None
    if kind.startswith("float"):
        return float(text) if text else None
    return text


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@cache
def _cpu_name() -> str:
    threads = torch.get_num_threads()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {threads} threads"


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.split("\n")[0].strip()
