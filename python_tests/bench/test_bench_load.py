"""What others took of the processors, counted from the system's own files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench import load


class Machine:
    """Two processors, and a clock, that go on as they are told."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.stat, self.now, self.own, self.ticks = folder / "stat", 100.0, 7.0, 5_000
        patch.setattr(load, "_STAT", self.stat)
        patch.setattr(load.os, "cpu_count", lambda: 2)
        patch.setattr(load.os, "sysconf", lambda _: 100)
        patch.setattr(time, "monotonic", lambda: self.now)
        patch.setattr(time, "process_time", lambda: self.own)
        self.goes_on(0, own=0, others=0)

    def goes_on(self, seconds: float, *, own: float, others: float) -> None:
        self.now += seconds
        self.own += own
        self.ticks += round(100 * (own + others))
        idle = 10**6 + round(100 * (2 * seconds - own - others))
        counts = (self.ticks - 60, 10, 20, idle, 99, 10, 10, 10, 0, 0)
        self.stat.write_text("cpu  " + " ".join(map(str, counts)) + "\ncpu0 1 2\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_what_others_took(machine: Machine) -> None:
    counted = load.Load()
    machine.goes_on(2.0, own=3.0, others=0.5)
    assert counted.others_percent() == pytest.approx(100 * 0.5 / 4)


def test_own_threads_are_no_load(machine: Machine) -> None:
    counted = load.Load()
    machine.goes_on(1.0, own=2.0, others=0.0)
    assert counted.others_percent() == 0


def test_a_short_while_says_nothing(machine: Machine) -> None:
    counted = load.Load()
    machine.goes_on(0.1, own=0.1, others=0.1)
    assert counted.others_percent() is None


def test_no_such_file_is_no_error(machine: Machine) -> None:
    machine.stat.unlink()
    counted = load.Load()
    machine.now += 1
    assert counted.others_percent() is None
