"""The GPUs that predictions are made for: what their makers say, and what programs reach of it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from bench import floors


class Device(NamedTuple):
    """A GPU, as far as predictions depend on it."""

    name: str
    """How its name in a result file is recognised."""
    arch: int
    """The architecture of its tables of tiles."""
    multiprocessors: int
    ghz: float
    """The highest clock."""
    bandwidth: float
    """Bytes a second that a large copy reaches: 91 % of the data sheet, as measured on an H200."""
    tensor_flops: int
    """16-bit, a clock and multiprocessor, at most."""
    float_flops: int
    """The same in float32, without tensor cores."""
    matmul_share: float
    """What a large 16-bit product reaches of `tensor_flops`: 688 of 1,070 Tflop/s on an H200."""

    def rates(self, dtype: torch.dtype) -> floors.Rates:
        """In place of those that a run measures."""
        clocks = 1e9 * self.ghz * self.multiprocessors
        is_16_bit = dtype.is_floating_point and dtype.itemsize == 2
        flops = self.tensor_flops * self.matmul_share if is_16_bit else 0.9 * self.float_flops
        return floors.Rates(self.bandwidth, self.bandwidth, clocks * flops, 16 * clocks)


H100 = Device("H100", 90, 132, 1.98, 0.91 * 3.35e12, 4096, 256, 0.64)
H200 = Device("H200", 90, 132, 1.98, 0.91 * 4.8e12, 4096, 256, 0.64)
A100 = Device("A100", 80, 108, 1.41, 0.91 * 2.04e12, 2048, 128, 0.82)
DEVICES = (H100, H200, A100)

LOADED_LATENCY = 1.2e-6
"""Seconds from a load to its bytes while the memory is busy, assumed; idle it is about half."""
_MARGIN = 1.3


def bytes_to_cover_latency(arch: int) -> int:
    """What each multiprocessor of a GPU of this architecture must have on its way so that its
    memory never waits, with a margin: bandwidth times latency."""
    shares = [each.bandwidth / each.multiprocessors for each in DEVICES if each.arch == arch]
    return round(_MARGIN * LOADED_LATENCY * max(shares))
