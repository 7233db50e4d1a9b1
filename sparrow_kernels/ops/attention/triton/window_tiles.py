"""Tile sizes of the window's kernels, by head dim, dtype and GPU.

Chosen from what the compiler reports with both triton 3.6 and 3.9: no spills, and copies two tiles
ahead of their use. A copy whose address is itself loaded (the slots of anchors) takes two stages
for each tile ahead, so row tiles have five stages where key tiles have three. float32 has no tensor
cores to feed and its operands fill the registers, so its tiles are small.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.ops import fences

Kernel = Literal["forward", "query", "key"]


class Tiles(NamedTuple):
    """How one kernel is launched."""

    rows: int
    keys: int
    num_warps: int
    num_stages: int

    def options(self) -> dict[str, int]:
        """The keyword arguments of a launch."""
        return {
            "BLOCK_M": self.rows,
            "BLOCK_N": self.keys,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }


# By kernel, then head dims up to 64, 128 and 256.
_FLOAT32: dict[Kernel, tuple[Tiles, Tiles, Tiles]] = {
    "forward": (Tiles(32, 32, 8, 5), Tiles(32, 16, 8, 5), Tiles(16, 16, 8, 5)),
    "query": (Tiles(32, 16, 8, 5), Tiles(32, 16, 4, 5), Tiles(16, 16, 8, 5)),
    "key": (Tiles(16, 32, 8, 3), Tiles(32, 16, 8, 3), Tiles(16, 16, 8, 3)),
}
# Within 99 KiB of shared memory: what all GPUs from 8.0 on give a block.
_AMPERE: dict[Kernel, tuple[Tiles, Tiles, Tiles]] = {
    "forward": (Tiles(128, 64, 8, 5), Tiles(128, 32, 8, 5), Tiles(64, 16, 8, 5)),
    "query": (Tiles(64, 64, 8, 5), Tiles(64, 32, 4, 5), Tiles(32, 32, 8, 5)),
    "key": (Tiles(32, 128, 8, 3), Tiles(32, 64, 8, 3), Tiles(32, 32, 8, 3)),
}
# Within 227 KiB.
_HOPPER: dict[Kernel, tuple[Tiles, Tiles, Tiles]] = {
    "forward": (Tiles(128, 64, 8, 5), Tiles(128, 64, 8, 5), Tiles(64, 32, 8, 5)),
    "query": (Tiles(128, 64, 8, 5), Tiles(128, 64, 8, 5), Tiles(64, 32, 8, 5)),
    "key": (Tiles(64, 128, 8, 3), Tiles(32, 128, 8, 4), Tiles(32, 32, 8, 3)),
}
# The same without a warpgroup's products (`ops/fences.py`): two warps, or less than 64 rows.
_UNFENCED: dict[Kernel, tuple[Tiles, Tiles, Tiles]] = {
    "forward": (Tiles(64, 32, 2, 5), Tiles(32, 64, 4, 5), Tiles(32, 32, 4, 5)),
    "query": (Tiles(32, 32, 2, 5), Tiles(32, 64, 4, 5), Tiles(32, 32, 4, 5)),
    "key": (Tiles(32, 32, 4, 3), Tiles(32, 32, 4, 3), Tiles(32, 32, 8, 3)),
}


def tiles_for(kernel: Kernel, query: Tensor) -> Tiles:
    """The tiles for a call with this `query` `[B, Hq, S, D]`."""
    index = query.device.index if query.device.type == "cuda" else None
    major = _major(index)
    fenced = fences.takes_warpgroup_products(major)
    return tiles(kernel, query.dtype, query.shape[-1], major, fenced)


def tiles(
    kernel: Kernel, dtype: torch.dtype, head_dim: int, major: int, fenced: bool = True
) -> Tiles:
    """The tiles for a GPU of compute capability `major`.x, head dims up to 256; `fenced`: with a
    warpgroup's products, where the GPU has them."""
    table = _HOPPER if major in fences.AFFECTED else _AMPERE
    if major in fences.AFFECTED and not fenced:
        table = _UNFENCED
    if dtype == torch.float32:
        table = _FLOAT32
    return table[kernel][0 if head_dim <= 64 else 1 if head_dim <= 128 else 2]


def block_dim(head_dim: int) -> int:
    """The power of two that a row is padded to in registers; `tl.dot` takes no less than 16."""
    return max(1 << (head_dim - 1).bit_length(), 16)


def split_programs(device: torch.device, pairs: int) -> int:
    """How many programs the anchors of one of `pairs` requests and KV heads are worth, so that
    together they give each multiprocessor two."""
    processors = _processors(device.index) if device.type == "cuda" else 8
    return -(-2 * processors // pairs)


@cache
def _major(index: int | None) -> int:
    return 8 if index is None else torch.cuda.get_device_capability(index)[0]


@cache
def _processors(index: int | None) -> int:
    return torch.cuda.get_device_properties(index or 0).multi_processor_count
