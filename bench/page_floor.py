"""What pages cost `tree_attention` on this CPU, beside what they cost a loop that only reads them.

    python -m bench.page_floor                  # one thread
    python -m bench.page_floor --json PATH      # and write what was found

One node, rows of 128 bytes, pages of 16 slots at random places: runs of 2 KB, too short for what
fetches ahead in a processor, and most of them on memory pages of their own. A bare loop
(`page_floor.cpp`) shows how much of the difference to a cache in one piece lies there. Ratios of
times that took turns in one run; nothing is written unless asked for.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench import options, records
from bench.cases.pages import PagedTreeAttention
from bench.timing import Call, interleaved

PAGE = 16
SLOTS = (1024, 4096, 16_384, 65_536, 262_144)
_SOURCE = Path(__file__).with_suffix(".cpp")


def compiled() -> Any:
    """The loops of `page_floor.cpp`, at the vector width of this processor. They are compiled each
    time, outside the checkout, which may be one that is only read."""
    compiler = os.environ.get("CXX", "c++")
    # Not -ffast-math: linked so, a library makes its process round subnormal numbers to zero.
    sums = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math")
    flags = ("-O3", "-march=native", "-shared", "-fPIC")
    with TemporaryDirectory() as folder:  # needed until the library is loaded
        built = Path(folder) / "page_floor.so"
        subprocess.run([compiler, *flags, *sums, "-o", str(built), str(_SOURCE)], check=True)
        library = ctypes.CDLL(str(built))
    for function in (library.walk, library.walk_whole):
        function.restype = ctypes.c_float
    return library


def ways(library: Any, slots: int) -> dict[str, Call]:
    """The op and the bare loop, each in one piece and in pages, over the same rows."""
    case = PagedTreeAttention(torch.float32, "embedded", slots - PAGE, 1, page_size=PAGE)
    paged = case.arguments(torch.device("cpu"), 0)
    whole = super(PagedTreeAttention, case).arguments(torch.device("cpu"), 0)

    def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
        return ctypes.c_void_p(tensor.data_ptr())

    def long(number: int) -> ctypes.c_long:
        return ctypes.c_long(number)

    pages, heads = (long(each) for each in paged["key"].shape[:2])
    in_pages = [pointer(paged[name]) for name in ("key", "value", "block_table")]
    in_one = [pointer(whole[name]) for name in ("key", "value")]
    return {
        "op": lambda: case.call(whole),
        "op in pages": lambda: case.call(paged),
        "bare": lambda: library.walk_whole(*in_one, heads, long(whole["key"].shape[2])),
        "bare in pages": lambda: library.walk(*in_pages, pages, heads, long(PAGE)),
    }


def measured(seconds: float) -> Iterator[dict[str, Any]]:
    library = compiled()
    for slots in SLOTS:
        found = interleaved(ways(library, slots), seconds=seconds)
        us = {name: timing.p50 for name, timing in found.items()}
        yield {
            "slots": slots,
            "op_us": us["op"],
            "bare_us": us["bare"],
            "op_ratio": us["op in pages"] / us["op"],
            "bare_ratio": us["bare in pages"] / us["bare"],
        }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.page_floor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds", type=options.seconds, default=4.0, help="for each number of slots"
    )
    parser.add_argument(
        "--json", type=options.to_write, metavar="PATH", help="write what was found"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print("slots      op, us  in pages   bare, us  in pages")
    found = []
    for row in measured(arguments.seconds):
        found.append(row)
        print(
            f"{row['slots']:<9} {row['op_us']:8.1f}  {row['op_ratio']:7.2f}x"
            f" {row['bare_us']:10.1f}  {row['bare_ratio']:7.2f}x"
        )
    if arguments.json is not None:
        records.write(arguments.json, "bench.page_floor", found)


if __name__ == "__main__":
    main()
