"""What the compilers made of every kernel: registers, spills, tensor-core instructions. No GPU.

    python -m bench.static                  # compiles and reads everything, writes the table
    python -m bench.static --only 'D128'    # the kernels whose name matches; the table stays
    python -m bench.static --quick          # one configuration a Triton kernel and dtype, likewise
    python -m bench.static --check          # compiles nothing: is the table the present sources'?

Prints a row a kernel and architecture and writes `bench/results/static.csv`. Ends with status 1 if
a kernel spills or keeps a stack, if one that should use tensor cores and asynchronous copies does
not, if its main loop waits for every copy it has begun or, where it streams a cache, has too little
on its way (`bench.devices`), if a product of it may read what it should not (`bench.sass`), or
(`--check`) if the table lacks a kernel or was made from other sources. What this machine cannot
see, for want of nvcc or triton, it says; rows that were read elsewhere from the same sources stay.

`wait_distance` counts the groups of copies that the main loop leaves on their way while it works on
a tile, `bytes_in_flight` their bytes on a multiprocessor that is full of such blocks. The cycles
are the fewest that a turn of the main loop takes a multiprocessor with one block: to issue its
instructions, on its tensor cores, for its exponentials.

Shared memory of a CUDA kernel is what it declares; what a launch adds is not in a cubin, so there
its occupancy is an upper bound. A kernel whose source names no block size has no occupancy here.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench import devices, shipped
from bench.shipped import ARCHITECTURES, ROOT, Compiled
from bench.table import print_table

TABLE = ROOT / "bench/results/static.csv"
COMMAND = "python -m bench.static"
COLUMNS = (
    "kernel", "arch", "registers", "smem_bytes", "stack_bytes", "spill_bytes", "tensor_core_ops",
    "async_copies", "occupancy", "threads", "wait_distance", "bytes_in_flight", "gpu_fences",
    "hazards", "issue_cycles", "tensor_cycles", "exp_cycles", "compiler", "sources",
)  # fmt: skip
Row = dict[str, str]
Pair = tuple[str, int]
"""A kernel's name and an architecture."""


def main() -> int:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--only", default="", help="kernels whose name this expression finds")
    parser.add_argument("--quick", action="store_true", help="a few Triton kernels of head dim 128")
    parser.add_argument("--check", action="store_true", help="compare the table; compile nothing")
    parser.add_argument("--table", type=Path, help=f"instead of {TABLE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    kinds = (_cuda(), _triton())
    for kind in kinds:
        if kind.unavailable is not None:
            print(f"{kind.name}'s kernels cannot be seen here: {kind.unavailable}")
    if arguments.check:
        return _report(table_failures(read_table(arguments.table or TABLE), kinds))
    keep = _a_few(kinds[1]) if arguments.quick else _matching(arguments.only)
    rows, failures = _read_all(kinds[1:] if arguments.quick else kinds, keep)
    print_table([{name: row[name] for name in COLUMNS[:-2]} for row in rows])
    if arguments.table is not None:
        write_table(arguments.table, rows)
    elif not arguments.only and not arguments.quick:
        rows = merged(read_table(TABLE), rows, kinds)
        write_table(TABLE, rows)
        print(f"{len(rows)} rows in {TABLE.relative_to(ROOT)}")
    return _report(failures)


Keep = Callable[[str, int], bool]
"""Whether to read the kernel of this name for this architecture."""


def _matching(expression: str) -> Keep:
    return lambda name, arch: re.search(expression, name) is not None


def _a_few(kind: Kind) -> Keep:
    names = set(few(kind.shipped())) if kind.unavailable is None else set()
    return lambda name, arch: (name, arch) in names


def few(names: Iterable[Pair]) -> list[Pair]:
    """Of each architecture, kernel and dtype the first configuration of head dim 128."""
    first: dict[tuple[int, str, str], Pair] = {}
    for name, arch in names:
        found = re.match(r"(.*)\bD128 (bf16|fp32)\b", name)
        if found is not None:
            first.setdefault((arch, found[1], found[2]), (name, arch))
    return list(first.values())


class Kind(NamedTuple):
    """CUDA or Triton kernels, as far as this machine can see them."""

    name: str
    """The first word of its compilers: nvcc or triton."""
    compiler: str
    unavailable: str | None
    shipped: Callable[[], dict[Pair, str]]
    """Every kernel, without compiling any, and the digest of its sources."""
    digest: str | None
    """That of each kernel, where it is one and needs no list of them."""
    read: Callable[[Keep], Iterable[tuple[Compiled, str]]]
    """Those to keep, compiled, and the digest of their sources."""

    def has(self, row: Row) -> bool:
        return row["compiler"].split(" ")[0] == self.name

    def fresh(self, rows: Iterable[Row]) -> list[Row]:
        """Those made from the present sources; where that cannot be told, all."""
        if self.unavailable is None:
            digests = self.shipped()
            return [row for row in rows if digests.get(_pair(row)) == row["sources"]]
        return [row for row in rows if self.digest in (None, row["sources"])]


def _pair(row: Row) -> Pair:
    return row["kernel"], int(row["arch"].removeprefix("sm_"))


def _cuda() -> Kind:
    digest = shipped.cuda_digest()

    def read(keep: Keep) -> Iterable[tuple[Compiled, str]]:
        return ((each, digest) for each in shipped.cuda_kernels() if keep(each.name, each.arch))

    @cache
    def kernels() -> dict[Pair, str]:
        return dict.fromkeys(shipped.cuda_names(), digest)

    reason, compiler = shipped.cuda_unavailable(), shipped.cuda_compiler()
    return Kind("nvcc", compiler, reason, kernels, digest, read)


def _triton() -> Kind:
    def read(keep: Keep) -> Iterable[tuple[Compiled, str]]:
        for arch in ARCHITECTURES:
            for entry in shipped.triton_entries(arch):
                if keep(entry.name, arch):
                    yield shipped.triton_kernel(entry, arch), shipped.triton_digest(entry)

    @cache
    def kernels() -> dict[Pair, str]:
        return {
            (entry.name, arch): shipped.triton_digest(entry)
            for arch in ARCHITECTURES
            for entry in shipped.triton_entries(arch)
        }

    reason, compiler = shipped.triton_unavailable(), shipped.triton_compiler()
    return Kind("triton", compiler, reason, kernels, None, read)


def _read_all(kinds: Sequence[Kind], keep: Keep) -> tuple[list[Row], list[str]]:
    rows, failures = [], []
    for kind in kinds:
        if kind.unavailable is not None:
            continue
        for each, digest in kind.read(keep):
            rows.append(row_of(each, kind.compiler, digest))
            failures += kernel_failures(each)
            print(f"  {each.name} sm_{each.arch}", file=sys.stderr)
    return rows, failures


def row_of(each: Compiled, compiler: str, digest: str) -> Row:
    """A line of the table."""
    kernel, share = each.kernel, each.occupancy()
    values = (
        each.name, f"sm_{each.arch}", kernel.registers, each.smem_bytes, kernel.stack_bytes,
        kernel.spill_bytes, kernel.tensor_core_ops, kernel.async_copies,
        "" if share is None else f"{share:.3f}",
        each.threads or "", *map(_text, each.in_flight()), kernel.gpu_fences, len(each.hazards()),
        *map(_text, each.cycles()), compiler, digest,
    )  # fmt: skip
    return dict(zip(COLUMNS, map(str, values), strict=True))


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def kernel_failures(each: Compiled) -> list[str]:
    """What is wrong with one compiled kernel, in words."""
    name, kernel, found = f"{each.name} sm_{each.arch}", each.kernel, []
    if kernel.spill_bytes > 0:
        found.append(f"{name}: spills {kernel.spill_bytes} bytes")
    elif kernel.stack_bytes > 0:
        found.append(f"{name}: a stack of {kernel.stack_bytes} bytes")
    found += [f"{name}: {hazard}" for hazard in each.hazards()]
    if kernel.main_loop is not None and kernel.main_loop.wait_distance == 0:
        found.append(f"{name}: its main loop waits for every copy: nothing overlaps")
    if (bytes_ahead := each.in_flight()[1]) and _is_short(each.name, each.arch, bytes_ahead):
        found.append(f"{name}: {bytes_ahead} bytes on their way do not cover the memory's latency")
    if each.occupancy() == 0:
        found.append(f"{name}: no block of it fits a multiprocessor")
    if each.needs_tensor_cores and kernel.tensor_core_ops == 0:
        found.append(f"{name}: no tensor-core instruction")
    if each.needs_tensor_cores and kernel.async_copies == 0:
        found.append(f"{name}: no asynchronous copy")
    return found


def table_failures(table: Sequence[Row], kinds: Sequence[Kind]) -> list[str]:
    """What the table on file lacks, or has too much of."""
    found = []
    for kind in kinds:
        rows = [row for row in table if kind.has(row)]
        if not rows:
            found.append(f"no {kind.name} kernel in the table; run: {COMMAND}")
        for compiler in sorted({row["compiler"] for row in rows}):
            ours = [row for row in rows if row["compiler"] == compiler]
            fresh = kind.fresh(ours)
            stale = sorted({_pair(row) for row in ours} - {_pair(row) for row in fresh})
            found += _counted(compiler, stale, "no longer shipped, or made from other sources")
            twice = {pair for pair, count in Counter(map(_pair, ours)).items() if count > 1}
            found += _counted(compiler, sorted(twice), "in the table twice")
            if kind.unavailable is None:
                missing = kind.shipped().keys() - {_pair(row) for row in ours}
                found += _counted(compiler, sorted(missing), "not in the table")
    for row in table:
        name = f"{row['kernel']} {row['arch']} ({row['compiler']})"
        if row["spill_bytes"] != "0":
            found.append(f"{name}: spills in the table")
        if row["wait_distance"] == "0":
            found.append(f"{name}: no overlap in the table")
        if row["hazards"] != "0":
            found.append(f"{name}: hazards in the table")
        ahead, arch = int(row["bytes_in_flight"] or 0), int(row["arch"].removeprefix("sm_"))
        if ahead and _is_short(row["kernel"], arch, ahead):
            found.append(f"{name}: too little on its way in the table")
    return found


def _is_short(kernel: str, arch: int, bytes_in_flight: int) -> bool:
    """Of the loops that stream a cache. One over anchors visits a few hundred slots."""
    streams = kernel.startswith("tree_attention") and " anchors" not in kernel
    return streams and bytes_in_flight < devices.bytes_to_cover_latency(arch)


def _counted(compiler: str, pairs: Sequence[Pair], what: str) -> list[str]:
    if not pairs:
        return []
    name, arch = pairs[0]
    return [f"{compiler}: {len(pairs)} {what}, first {name} sm_{arch}; run: {COMMAND}"]


def merged(table: Sequence[Row], rows: Sequence[Row], kinds: Sequence[Kind]) -> list[Row]:
    """The rows just read, and those of other compilers that come from the present sources."""
    just_read = {row["compiler"] for row in rows}
    others = [row for row in table if row["compiler"] not in just_read]
    kept = [row for kind in kinds for row in kind.fresh(filter(kind.has, others))]
    if len(kept) < len(others):
        lost = sorted({row["compiler"] for row in others if row not in kept})
        print(
            f"dropped {len(others) - len(kept)} rows of {', '.join(lost)}: made from other sources"
        )
    return sorted([*rows, *kept], key=lambda row: (row["compiler"], row["kernel"], row["arch"]))


def read_table(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        # A table from before a column was added is stale where it says nothing.
        return [dict.fromkeys(COLUMNS, "") | row for row in csv.DictReader(file)]


def write_table(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _report(failures: Sequence[str]) -> int:
    for failure in failures:
        print(f"FAILED {failure}")
    print("nothing to complain about" if not failures else f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
