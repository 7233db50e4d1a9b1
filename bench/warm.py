"""Runs every way of every case once, many at a time: what compiles at first use is then compiled.

    python -m bench.warm ours              # our own kernels: Triton's, kept in its cache on disk
    python -m bench.warm peers             # what torch.compile makes, kept in Inductor's

Times nothing, judges nothing: `bench.run` does, which then finds everything in those caches. Ends
with 1 if no call went well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

import sparrow_kernels
from bench import gate, measure, options, registry, selection
from bench.case import Case, Way


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.warm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("whose", choices=("ours", "peers"))
    parser.add_argument("--family", action="append", help="only this file of cases")
    parser.add_argument("--quick", action="store_true", help="the shapes of bench.run --quick")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument(
        "--processes", type=options.count, default=max(1, (os.cpu_count() or 1) // 3)
    )
    arguments = parser.parse_args(argv)
    size: selection.Size = "quick" if arguments.quick else "full"
    if arguments.device == "cpu":
        size = "smoke"  # to see that it works: on a CPU only torch.compile compiles
    chosen = selection.Selection(arguments.device, size)
    try:
        cases = registry.cases(chosen, arguments.family)
    except ValueError as error:
        parser.error(str(error))
    began = time.monotonic()
    went, failures = 0, set()
    with _pool(min(arguments.processes, len(cases))) as pool:
        whose, device = [arguments.whose] * len(cases), [arguments.device] * len(cases)
        for case, found in zip(cases, pool.map(warmed, cases, whose, device), strict=True):
            went += sum(reason is None for reason in found.values())
            failures |= {
                f"{case.op} {case.name} {name}: {reason}"
                for name, reason in found.items()
                if reason is not None
            }
    for failure in sorted(failures):
        print(failure)
    print(f"{went} calls in {time.monotonic() - began:.0f} s, {len(failures)} failed")
    return int(went == 0 and bool(failures))


def warmed(case: Case, whose: str, device: str) -> dict[str, str | None]:
    """Each of the ways that compile, called once: what it said, None if nothing."""
    on = torch.device(device, 0) if device == "cuda" else torch.device(device)
    found: dict[str, str | None] = {}
    with torch.set_grad_enabled(measure.needs_grad(case)), sparrow_kernels.checks(False):
        for way in _ways(case, whose, on):
            try:
                with way.chosen():
                    way.prepare(case.arguments(on, 0))()
                found[way.name] = None
            except NotImplementedError:  # no backend of this name for such a call
                continue
            except Exception as error:  # its row will say so too
                found[way.name] = gate.in_a_line(error)
    return found


def _ways(case: Case, whose: str, device: torch.device) -> Iterator[Way]:
    for way in case.ours(device) if whose == "ours" else case.peers(device):
        if way.unavailable is None and (way.is_ours or way.compiles):
            yield way


def _pool(processes: int) -> ProcessPoolExecutor:
    """Each process compiles by itself: Inductor's own helpers would be as many again."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))


if __name__ == "__main__":
    sys.exit(main())
