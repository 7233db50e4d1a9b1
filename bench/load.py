"""How much of the machine others took while something was timed: a time under load is no result."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_LEAST_SECONDS = 0.2
"""Processors count their time in hundredths of a second: a shorter while says nothing."""


class Load:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy, self._own = _busy_seconds(), time.process_time()

    def others_percent(self) -> float | None:
        """Of the processors' time since then, what other processes took; None: nobody can say."""
        took, busy = time.monotonic() - self._began, _busy_seconds()
        if took < _LEAST_SECONDS or busy is None or self._busy is None:
            return None
        others = busy - self._busy - (time.process_time() - self._own)
        return max(0.0, 100 * others / (took * (os.cpu_count() or 1)))


def _busy_seconds() -> float | None:
    """What all processors have worked since the machine began, a hypervisor's share included."""
    try:
        counts = _STAT.read_text(encoding="utf-8").splitlines()[0].split()[1:9]
    except (OSError, IndexError):
        return None
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = map(int, counts)
    ticks = user + nice + system + interrupts + soft_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK")
