"""What the compilers made of every kernel: registers, spills, tensor-core instructions. No GPU.

    python -m bench.static                  # compiles and reads everything, writes the table
    python -m bench.static --only 'D128'    # the kernels whose name matches; the table stays
    python -m bench.static --quick          # one configuration a Triton kernel and dtype, likewise
    python -m bench.static --check          # compiles nothing: is the table the present sources'?

Prints a row a kernel and architecture and writes `bench/results/static.csv`. Ends with status 1 if
a kernel is not as it must be (`bench.static_limits`) or, with `--check`, if the table lacks one or
was made from other sources. What this machine cannot see, for want of nvcc or triton, it says; rows
that were read elsewhere from the same sources stay.

`wait_distance` counts the groups of copies that the main loop leaves on their way while it works on
a tile, `bytes_in_flight` their bytes on a multiprocessor that is full of such blocks. The cycles
are the fewest that a turn of the main loop takes a multiprocessor with one block: to issue its
instructions, on its tensor cores, for its exponentials.

Shared memory of a CUDA kernel is what it declares; what a launch adds is not in a cubin, so there
its occupancy is an upper bound. A kernel whose source names no block size has no occupancy here.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench import earlier, shipped, static_limits, static_table
from bench.shipped import ARCHITECTURES, ROOT, Compiled
from bench.static_table import COLUMNS, TABLE, Pair, Row, pair
from bench.table import print_table

COMMAND = "python -m bench.static"


def main(argv: Sequence[str] | None = None) -> int:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=formatter, allow_abbrev=False
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", default="", help="kernels whose name this expression finds")
    which.add_argument("--quick", action="store_true", help="a few Triton kernels of head dim 128")
    which.add_argument("--check", action="store_true", help="compare the table; compile nothing")
    parser.add_argument("--table", type=Path, help=f"instead of {TABLE.relative_to(ROOT)}")
    arguments = parser.parse_args(argv)
    try:
        keep = _matching(arguments.only)
        on_file = _on_file(arguments)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    kinds = (_cuda(), _triton())
    for kind in kinds:
        if kind.unavailable is not None:
            print(f"{kind.name}'s kernels cannot be seen here: {kind.unavailable}")
    if arguments.check:
        return _report(table_failures(on_file, kinds))
    if arguments.quick:
        keep = _a_few(kinds[1])
    rows, failures = _read_all(kinds[1:] if arguments.quick else kinds, keep)
    if arguments.only and not rows:
        failures.append(f"--only: no kernel that can be seen here matches {arguments.only!r}")
    print_table([{name: row[name] for name in COLUMNS[:-2]} for row in rows])
    if arguments.table is not None:
        static_table.write(arguments.table, rows)
    elif not arguments.only and not arguments.quick:
        rows = merged(on_file, rows, kinds)
        static_table.write(TABLE, rows)
        print(f"{len(rows)} rows in {TABLE.relative_to(ROOT)}")
    return _report(failures)


def _on_file(arguments: argparse.Namespace) -> list[Row]:
    """The rows to compare or to merge with. Raises where there is nothing to compare, or no file
    can be written: compiling takes minutes, so that is tried before."""
    path = arguments.table or TABLE
    if arguments.check:
        if not path.exists():
            raise ValueError(f"--check: no table {path} (without --check {COMMAND} writes one)")
        return static_table.read(path)
    if arguments.table is None:
        return static_table.read(TABLE)
    if earlier.is_committed(path):
        raise ValueError(f"--table: {path} is committed, and would lose what is not compiled here")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("a", encoding="utf-8").close()
    return []


Keep = Callable[[str, int], bool]
"""Whether to read the kernel of this name for this architecture."""


def _matching(expression: str) -> Keep:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ValueError(f"--only: {expression!r} is no regular expression: {error}") from None
    return lambda name, arch: pattern.search(name) is not None


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
            return [row for row in rows if digests.get(pair(row)) == row["sources"]]
        return [row for row in rows if self.digest in (None, row["sources"])]


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
            failures += static_limits.kernel_failures(each)
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
            stale = sorted({pair(row) for row in ours} - {pair(row) for row in fresh})
            found += _counted(compiler, stale, "no longer shipped, or made from other sources")
            twice = {pair for pair, count in Counter(map(pair, ours)).items() if count > 1}
            found += _counted(compiler, sorted(twice), "in the table twice")
            if kind.unavailable is None:
                missing = kind.shipped().keys() - {pair(row) for row in ours}
                found += _counted(compiler, sorted(missing), "not in the table")
    return [*found, *(failure for row in table for failure in static_limits.row_failures(row))]


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


def _report(failures: Sequence[str]) -> int:
    for failure in failures:
        print(f"FAILED {failure}")
    print("nothing to complain about" if not failures else f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
