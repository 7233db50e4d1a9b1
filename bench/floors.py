"""What the device can do at best, measured in the same run as everything else.

    floor = max(bytes / bandwidth, flops / matmul rate, exps / exponential rate)

Bandwidth is the better of a large copy (read and write counted) and a read-only stream; the matmul
rate is that of a large product in the case's dtype. The exponential rate of a GPU is 16 a clock a
multiprocessor; a CPU's is measured.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from bench import timing
from bench.case import Case

_STREAM_BYTES = {"cuda": 2 << 30, "cpu": 256 << 20}
_PRODUCT = {"cuda": 8192, "cpu": 1024}
_WORTH_QUOTING = 5.0
"""Microseconds: below that a launch is most of the time and a share of the floor says nothing."""


class Rates(NamedTuple):
    """Per second."""

    copy_bytes: float
    read_bytes: float
    flops: float
    exps: float

    @property
    def bytes(self) -> float:
        return max(self.copy_bytes, self.read_bytes)


class Floor(NamedTuple):
    """The least time a case can take, and which of its three kinds of work says so."""

    microseconds: float
    bound: str

    def percent(self, microseconds: float) -> float | None:
        """How much of a measured time the floor is, None where the floor is too short to matter."""
        if self.microseconds < _WORTH_QUOTING or microseconds <= 0:
            return None
        return 100 * self.microseconds / microseconds


def floor(case: Case, rates: Rates) -> Floor:
    terms = {
        "bytes": case.bytes() / rates.bytes,
        "flops": case.flops() / rates.flops,
        "exps": case.exps() / rates.exps,
    }
    bound = max(terms, key=lambda term: terms[term])
    return Floor(1e6 * terms[bound], bound)


@cache
def rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """The rates of `device`, measured now and remembered for this process."""
    copy, read = _bandwidths(device)
    return Rates(copy, read, _matmul_rate(device, dtype), _exp_rate(device))


def stream_time(device: torch.device, num_bytes: int) -> timing.Timing:
    """How long a read-only stream of `num_bytes` takes: what a single input costs to look at."""
    source = torch.ones(max(num_bytes // 4, 1), dtype=torch.float32, device=device)
    return _time(device, lambda: source.sum())


@cache
def _bandwidths(device: torch.device) -> tuple[float, float]:
    num_bytes = _STREAM_BYTES[device.type]
    source = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copy = _time(device, lambda: target.copy_(source))
    read = _time(device, lambda: source.sum())
    return 2e6 * num_bytes / copy.p50, 1e6 * num_bytes / read.p50


@cache
def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    size = _PRODUCT[device.type]
    if not dtype.is_floating_point:
        dtype = torch.float32
    generator = torch.Generator(device=device).manual_seed(0)  # zeros would run faster than data
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in "ab")
    product = torch.empty_like(a)
    return 2e6 * size**3 / _time(device, lambda: torch.mm(a, b, out=product)).p50


@cache
def _exp_rate(device: torch.device) -> float:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return 16 * properties.multi_processor_count * 1e3 * _clock_khz(device)
    source = torch.randn(1 << 16)
    target = torch.empty_like(source)
    return 1e6 * source.numel() / _time(device, lambda: torch.exp(source, out=target)).p50


def _clock_khz(device: torch.device) -> float:
    """The highest clock of the multiprocessors."""
    properties = torch.cuda.get_device_properties(device)
    if hasattr(properties, "clock_rate"):
        return float(properties.clock_rate)
    from triton.runtime import driver  # torch.cuda.clock_rate is that of the moment

    return float(driver.active.utils.get_device_properties(device.index or 0)["sm_clock_rate"])


def _time(device: torch.device, call: timing.Call) -> timing.Timing:
    if device.type == "cuda":
        return timing.replayed([call], samples=7)
    return timing.interleaved({"call": call}, seconds=0.3)["call"]
