"""The clock of a GPU's multiprocessors at a moment, by NVML, which comes with the driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache

import torch

from bench.timing import Timing

_SM = 1  # NVML_CLOCK_SM
_MOST_PERCENT = 3.0
"""How far the clock may move during a measurement for its times to be one number."""


@cache
def reader(device: torch.device) -> Callable[[], float | None]:
    """What gives the clock of `device` in MHz; None where the driver does not tell."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        handle = ctypes.c_void_p()
        # torch numbers what CUDA_VISIBLE_DEVICES leaves; NVML all there are.
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        found = library.nvmlInit_v2() == 0 and (
            library.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)) == 0
            or _the_only_one(library, handle)
        )
    except (OSError, AttributeError, AssertionError, RuntimeError):
        found = False
    if not found:
        return lambda: None

    def read() -> float | None:
        clock = ctypes.c_uint()
        status = library.nvmlDeviceGetClockInfo(handle, _SM, ctypes.byref(clock))
        return float(clock.value) if status == 0 else None

    return read


def _the_only_one(library: ctypes.CDLL, handle: ctypes.c_void_p) -> bool:
    """Whether there is one GPU only, whose handle this then is."""
    count = ctypes.c_uint()
    status = library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    if status != 0 or count.value != 1:
        return False
    return bool(library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) == 0)


def moved(megahertz: Sequence[float]) -> str | None:
    """How a clock moved between readings, in words, None if it kept still. One wild reading of
    several is no movement."""
    if not megahertz:
        return None
    low, _, high, _ = Timing.of(megahertz)
    if high - low <= high * _MOST_PERCENT / 100:
        return None
    return f"the SM clock moved between {low:.0f} and {high:.0f} MHz"
