"""Measure the ops: every case through the correctness gate, then timed beside its peers.

    python -m bench.run --all                          # every case of the full size
    python -m bench.run --all --device cpu --quick     # a few minutes on two cores
    python -m bench.run --op tree_attention --shape prefix=4096,T=30 --peers "sdpa, flash"
    sparrow bench --op tree_attention                  # the same, from any folder

Writes CSV rows (columns: docs/benchmarks.md) as it goes and JSON at its end, prints a table, and
with --all draws plots beside them. Ends with 1 if the gate refused one of our own backends, whose
times are then missing, or if nothing of ours was measured.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from bench import earlier, goals, measure, options, registry, rows
from bench.case import Case, Way
from bench.report import measured_nothing, print_rows, print_summary
from bench.selection import Selection, Size
from sparrow_kernels.cli.signals import Terminated, signals_raise

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    arguments = parser.parse_args(words)
    device = _device(arguments.device)
    if isinstance(device, str):
        parser.error(device)
    stem = arguments.out / (arguments.name or f"bench-{device.type}")
    try:
        cases = _cases(arguments, device)
        _check_names(arguments, cases, device)
        if not arguments.list:
            earlier.refuse_committed(stem)
    except ValueError as error:
        parser.error(str(error))
    if arguments.list:
        for case in cases:
            print(f"{case.op}  {case.name}  {case.dtype}")
        return 0
    plan = measure.Plan(device, arguments.seconds, arguments.inputs, _allowed(arguments))
    machine = rows.machine("python -m bench.run " + shlex.join(words), device)
    try:
        writer = rows.Writer(stem, with_json=not arguments.csv_only)
    except OSError as error:
        parser.error(f"--out: {error}")
    for path in writer.kept:
        print(f"of an earlier run, kept: {path}")
    written = f"written: {', '.join(str(path) for path in writer.paths)}"
    try:
        with signals_raise():
            _measure(cases, plan, machine, writer, arguments.limit)
    except (KeyboardInterrupt, Terminated) as cut:
        how, status = "interrupted", 130  # as shells say it
        if isinstance(cut, Terminated):
            how, status = "terminated", cut.status
        print(f"{how}: {len(writer.rows)} rows until then; {written}", file=sys.stderr)
        return status
    finally:  # what was measured until then is kept
        writer.close()
    print_rows(writer.rows)
    print_summary(writer.rows)
    print(written)
    if arguments.all and not arguments.csv_only:
        _plot(writer.rows, stem)
    refused = any(row.ours and row.status == rows.REFUSED for row in writer.rows)
    return int(refused or measured_nothing(writer.rows))


def _plot(found: Sequence[rows.Row], stem: Path) -> None:
    """Draw what there is to see, where matplotlib is installed."""
    if why := options.no_plots():
        print(f"no plots: {why}")
        return
    from bench.plot import drawn

    written = drawn(found, stem.parent / "plots" / stem.name)
    print(f"{len(written)} plots in {stem.parent / 'plots'}")


def _measure(
    cases: Sequence[Case],
    plan: measure.Plan,
    machine: rows.Machine,
    writer: rows.Writer,
    limit: float,
) -> None:
    """Write the rows of every case; past `limit` seconds, rows that say there was no time."""
    began = time.monotonic()
    progress = tqdm(cases, unit="case", disable=not sys.stderr.isatty())
    for case in progress:
        progress.set_description(f"{case.op} {case.name}"[:70])
        if time.monotonic() - began > limit:
            late = f"the run had its {limit:g} s"
            writer.write(measure.left_out(case, plan, machine, late))
            continue
        writer.write(measure.measured(case, plan, machine))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--all", action="store_true", help="every op")
    what.add_argument("--op", help="one op, by its public name")
    parser.add_argument("--family", action="append", help="with --all: only this file of cases")
    parser.add_argument("--shape", default="", help="with --op: such as prefix=4096,T=30,B=1")
    parser.add_argument("--dtype", help="with --op: float32, float16 or bfloat16")
    parser.add_argument("--peers", default="all", help="all, none, or names separated by ';'")
    parser.add_argument("--no-compile", action="store_true",
                        help="leave out what torch.compile would compile for seconds")  # fmt: skip
    parser.add_argument("--backends", default="all", help="ours: all, or names separated by ';'")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick",
                      help="less time, no peer that compiles; of --all fewer shapes")  # fmt: skip
    size.add_argument("--smoke", dest="size", action="store_const", const="smoke",
                      help="next to no time: does it run at all; of --all tiny shapes")  # fmt: skip
    parser.set_defaults(size="full")
    parser.add_argument("--inputs", default="auto", choices=("auto", "hot", "cold", "both"))
    parser.add_argument("--seconds", type=options.seconds, help="of timing a case, on a CPU")
    parser.add_argument("--limit", type=options.seconds, default=float("inf"),
                        help="seconds after which no further case is begun")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=rows.RESULTS / "local", help="folder for results"
    )
    parser.add_argument(
        "--name", type=options.file_name, help="of the result files, without ending"
    )
    parser.add_argument("--csv-only", action="store_true", help="no JSON, no plots")
    parser.add_argument("--list", action="store_true", help="say what would be measured")
    return parser


def _device(asked: str) -> torch.device | str:
    """The device, or why there is none."""
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda" and not torch.cuda.is_available():
        return "--device cuda: this torch finds no GPU (--device cpu measures the CPU backends)"
    return torch.device(asked, 0) if asked == "cuda" else torch.device(asked)


def _cases(arguments: argparse.Namespace, device: torch.device) -> list[Case]:
    size: Size = arguments.size
    if arguments.seconds is None:
        arguments.seconds = {"smoke": 0.02, "quick": 1.0, "full": 3.0}[size]
    selection = Selection(device.type, size)
    if arguments.all:
        if arguments.shape or arguments.dtype:
            raise ValueError("--shape and --dtype go with --op: --all has shapes of its own")
        # Those that most is asked of come first: a run may end before the others.
        return sorted(registry.cases(selection, arguments.family), key=goals.value)
    if arguments.family:
        raise ValueError("--family goes with --all: --op names an op")
    parts = [part.strip() for part in arguments.shape.split(",") if part.strip()]
    pairs = [part.split("=", 1) for part in parts if "=" in part]
    shape = {word.strip(): value.strip() for word, value in pairs}
    if len(shape) != len(parts):
        raise ValueError(
            f"--shape must be word=value pairs, each word once, got {arguments.shape!r}"
        )
    if arguments.dtype is not None and arguments.dtype not in _DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(_DTYPES)}, got {arguments.dtype!r}")
    asked = _DTYPES.get(arguments.dtype or "")
    cases = registry.shaped(arguments.op, shape, selection.dtype, asked)
    _check_memory(cases, device)
    return cases


def _check_memory(cases: Sequence[Case], device: torch.device) -> None:
    """Refuse what is sure not to fit: a machine that swaps, or kills, says nothing."""
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if device.type == "cuda":
        has = torch.cuda.get_device_properties(device).total_memory
    for case in cases:
        if case.bytes() > has:
            gigabytes = f"{case.bytes() / 1e9:,.0f} GB, this {device.type} has {has / 1e9:,.0f}"
            raise ValueError(f"--shape: {case.op} {case.name} would read and write {gigabytes}")


def _check_names(arguments: argparse.Namespace, cases: list[Case], device: torch.device) -> None:
    """Refuse a peer or a backend that none of the cases has, and what would measure nothing."""
    for option, asked, ours in (
        ("--peers", arguments.peers, False),
        ("--backends", arguments.backends, True),
    ):
        if asked == "all" or (asked == "none" and not ours):
            continue
        ways = (way for case in cases for way in [*case.ours(device), *case.peers(device)])
        known = dict.fromkeys(way.name for way in ways if way.is_ours == ours)
        unknown = [name for name in _names(asked) if name not in known]
        if unknown or not _names(asked):
            raise ValueError(
                f"{option} must be all{'' if ours else ', none'} or of {'; '.join(known)},"
                f" got {'; '.join(unknown) or repr(asked)}"
            )


def _names(asked: str) -> list[str]:
    return [name.strip() for name in asked.split(";") if name.strip()]


def _allowed(arguments: argparse.Namespace) -> Callable[[Way], str | None]:
    peers, backends = (
        None if asked == "all" else set(_names(asked))
        for asked in (arguments.peers, arguments.backends)
    )

    def allowed(way: Way) -> str | None:
        asked = backends if way.is_ours else peers
        if asked is not None and way.name not in asked:
            return "not asked for"
        if way.compiles and arguments.no_compile:
            return "compiles for seconds, which --no-compile leaves out"
        if way.compiles and arguments.size != "full" and peers is None:
            return f"compiles for longer than --{arguments.size} may take"
        return None

    return allowed


if __name__ == "__main__":
    sys.exit(main())
