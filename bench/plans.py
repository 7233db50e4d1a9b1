"""How a call of tree attention is cut into blocks on a GPU, and what that takes, by arithmetic.

    python -m bench.plans                # on an H100: blocks, waves, balance of many calls
    python -m bench.plans --device A100

    time = fixed + max(the blocks, in their order, as multiprocessors come free; all keys and values
           at a share of the device's bandwidth) + merge
    block = the tiles of its run, and masked tiles where the tree is
    tile = its products, and a turn of the loop

`Costs` are of one H200 (triton 3.6, cold inputs, replayed graphs, 28 query and 4 KV heads of
128): those of the tiles were fitted to 40 calls of 25,600 slots, 1 to 60 nodes, ten configurations
and 8 to 132 splits; the others to seven calls of the kernel as it is, which the model meets within
5 % behind 25,600 slots (1 to 60 nodes), 10 % behind 512 (8, 30), a fifth behind 128 (1). For other
GPUs they are scaled by clock and bandwidth.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch

from bench.devices import DEVICES, H100, Device
from bench.table import print_table
from sparrow_kernels.ops.attention.triton import configurations
from sparrow_kernels.ops.attention.triton.configurations import Configuration


class Costs(NamedTuple):
    """What the model is made of, of a kernel as it was compiled: microseconds, but for shares."""

    fixed: float = 3.6
    """Launch, lengths, queries, the first tile, the result."""
    reading: float = 1.1
    """What keys and values take, over their time at the device's bandwidth."""
    products: float = 1.84
    """Clocks of a tile over those its products take on tensor cores that are never idle,"""
    turn: float = 0.20
    """and what a turn of the loop takes besides."""
    no_overlap: float = 0.53
    """More, where a turn waits for its own copies: two stages."""
    masked: float = 2.0
    """A masked tile: words, keys and values wait for one another."""
    indirect: float = 1.35
    """What tiles take whose pages or biases are loaded before their keys, over those of others."""
    merge: float = 1.9
    """The merge of splits: its launch,"""
    merge_bytes: float = 8e6
    """parts written and read again, bytes a microsecond,"""
    merge_pass: float = 0.2
    """and each pass of a program over splits but the first."""


PRESENT = Costs()
_EMPTY_US = 0.5


class Call(NamedTuple):
    """What a plan depends on, and the lengths, on which it does not."""

    nodes: int
    lengths: tuple[int, ...]
    """Of the prefix of each request."""
    heads: int = 28
    kv_heads: int = 4
    head_dim: int = 128
    dtype: torch.dtype = torch.bfloat16
    indirect: bool = False
    """Whether its keys lie in pages, or have a bias each."""

    @property
    def slots(self) -> int:
        """Of a cache that holds the longest."""
        return -(-(max(self.lengths) + self.nodes) // 64) * 64


class Cut(NamedTuple):
    """A call in blocks."""

    configuration: Configuration
    num_splits: int
    blocks: int
    """Those with something to do."""
    waves: float
    """Blocks over what runs at once."""
    balance: float
    """The mean block over the longest, in tiles."""
    us: float

    def padded_rows(self, call: Call) -> int:
        """Of a KV head and request, those of whole tiles."""
        rows = call.nodes * (call.heads // call.kv_heads)
        return -(-rows // self.configuration.rows) * self.configuration.rows


@cache
def cut(device: Device, call: Call) -> Cut:
    """The table's choice, and its time."""
    batch, group = len(call.lengths), call.heads // call.kv_heads
    rows = call.nodes * group
    chosen = configurations.choose(device.arch, call.dtype, call.head_dim, False, rows, fixed=False)
    row_tiles = -(-rows // chosen.rows)
    programs = batch * call.kv_heads * row_tiles
    splits = configurations.split_count(chosen, programs, device.multiprocessors, call.slots, batch)
    return of_configuration(device, call, chosen, splits)


def shared_evenly(
    length: int, nodes: int, chosen: Configuration, splits: int
) -> Iterator[tuple[int, int]]:
    """Tiles of each split of a request, and the masked ones of the first, which holds the tree."""
    tiles = length // chosen.block_n
    masked = -(-(length - tiles * chosen.block_n + nodes) // chosen.block_t)
    own = max((tiles + configurations.TREE_TILES) // splits - configurations.TREE_TILES, 0)
    yield own, masked
    rest, others = tiles - own, splits - 1
    for split in range(others):
        yield (split + 1) * rest // others - split * rest // others, 0


Runs = Callable[[int, int, Configuration, int], Iterable[tuple[int, int]]]


def merge_us(call: Call, chosen: Configuration, splits: int, costs: Costs = PRESENT) -> float:
    """What the merge of several splits takes."""
    parts = splits * len(call.lengths) * call.heads * call.nodes * call.head_dim
    passes = -(-splits // configurations.splits_tile(chosen.rows)[1])
    us = costs.merge + 2 * parts * call.dtype.itemsize / costs.merge_bytes
    return us + costs.merge_pass * (passes - 1)


Merge = Callable[[Call, Configuration, int], float]


def of_configuration(
    device: Device,
    call: Call,
    chosen: Configuration,
    splits: int,
    runs_of: Runs = shared_evenly,
    merge: Merge = merge_us,
    costs: Costs = PRESENT,
) -> Cut:
    """The time of any choice."""
    rows = call.nodes * (call.heads // call.kv_heads)
    row_tiles = -(-rows // chosen.rows)
    runs = [
        (tiles, masked)
        for length in call.lengths
        for tiles, masked in runs_of(length, call.nodes, chosen, splits)
    ]
    busy = [run for run in runs if run != (0, 0)]
    blocks = len(busy) * call.kv_heads * row_tiles
    room = device.multiprocessors * chosen.resident
    slower = costs.indirect if call.indirect else 1.0
    tile = slower * _tile_us(device, call, chosen, min(blocks, room), costs)
    times = [_EMPTY_US + tiles * tile + masked * costs.masked for tiles, masked in runs]
    # Row tiles of the same keys run together and read them from the L2.
    slots = sum(call.lengths) * call.kv_heads
    num_bytes = 2 * slots * call.head_dim * call.dtype.itemsize
    reading = 1e6 * slower * costs.reading * num_bytes / device.bandwidth
    us = costs.fixed + max(_scheduled(times, call.kv_heads * row_tiles, room), reading)
    if splits > 1:
        us += merge(call, chosen, splits)
    turns = [tiles + (configurations.TREE_TILES if masked else 0) for tiles, masked in busy]
    balance = sum(turns) / len(turns) / max(turns)
    return Cut(chosen, splits, blocks, blocks / room, balance, us - _EMPTY_US)


def _tile_us(device: Device, call: Call, chosen: Configuration, active: int, costs: Costs) -> float:
    tensor = chosen.rows * chosen.block_n * call.head_dim * 4 / device.tensor_flops
    beside = min(chosen.resident, -(-active // device.multiprocessors))
    us = costs.products * tensor * beside / (1e3 * device.ghz) + costs.turn
    return us + (costs.no_overlap if chosen.num_stages <= 2 else 0.0)


def _scheduled(times: Sequence[float], copies: int, room: int) -> float:
    """When the last block ends, if each begins as soon as another one leaves."""
    free: list[float] = []
    for time in times:
        for _ in range(copies):
            begin = heapq.heappop(free) if len(free) >= room else 0.0
            heapq.heappush(free, begin + time)
    return max(free)


# --- The sweep -----------------------------------------------------------------------------------

BATCHES = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 33, 34, 36, 40, 48, 64)
NODES = (1, 2, 4, 6, 8, 9, 12, 16, 18, 19, 25, 27, 28, 30, 36, 37, 48, 60, 64)
LENGTHS = (512, 4_096, 25_600, 131_072)
WORST = 1.3
"""How many times as long a call may take as one beside it, at the same work."""


class Step(NamedTuple):
    """Two calls beside one another in the sweep, the second the larger."""

    first: Call
    second: Call

    def worse(self, device: Device) -> float:
        """How many times as long the second takes as the first would at its work, or the first as
        the second. The rows that tiles pad count as work: their sizes are powers of 2."""
        first, second = cut(device, self.first), cut(device, self.second)
        work = [
            len(call.lengths) * each.padded_rows(call)
            for call, each in ((self.first, first), (self.second, second))
        ]
        return max(second.us / first.us * work[0] / work[1], first.us / second.us)


def steps() -> Iterator[Step]:
    """Every call of the sweep with the next larger batch, and the next larger tree."""
    for length in LENGTHS:
        for nodes in NODES:
            calls = [Call(nodes, (length,) * batch) for batch in BATCHES]
            yield from map(Step, calls, calls[1:])
        for batch in BATCHES:
            calls = [Call(nodes, (length,) * batch) for nodes in NODES]
            yield from map(Step, calls, calls[1:])


def ragged(batch: int, long: int = 25_600, short: int = 500, nodes: int = 30) -> Call:
    """One long request among short ones."""
    return Call(nodes, (long,) + (short,) * (batch - 1))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.plans",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [device.name for device in DEVICES]
    parser.add_argument("--device", choices=names, default=H100.name)
    device = DEVICES[names.index(parser.parse_args(argv).device)]
    calls = [
        Call(nodes, (length,) * batch)
        for length in LENGTHS
        for nodes in (1, 8, 30, 60)
        for batch in (1, 8, 12, 32, 34)
    ]
    table = []
    for call in [*calls, *(ragged(batch) for batch in (8, 32))]:
        found = cut(device, call)
        shortest, longest = min(call.lengths), max(call.lengths)
        table.append({
            "prefix": longest if shortest == longest else f"{shortest} to {longest}",
            "T": call.nodes,
            "B": len(call.lengths),
            "rows": found.configuration.rows,
            "splits": found.num_splits,
            "blocks": found.blocks,
            "waves": f"{found.waves:.2f}",
            "balance": f"{found.balance:.2f}",
            "us, predicted": f"{found.us:.1f}",
        })  # fmt: skip
    print_table(table)
    worst = sorted(((step.worse(device), step) for step in steps()), key=lambda each: -each[0])
    print(f"{sum(times > WORST for times, _ in worst)} of {len(worst)} steps over {WORST} x")
    for times, step in worst[:10]:
        sizes = [f"T={c.nodes} B={len(c.lengths)}" for c in (step.first, step.second)]
        print(f"{times:.2f} x  prefix {step.first.lengths[0]}: {sizes[0]} -> {sizes[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
