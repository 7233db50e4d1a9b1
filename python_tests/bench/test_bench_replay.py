"""Graph replay on a GPU that is simulated: calls take what they say, on a clock of its own."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_cases import CPU, Doubling

from bench import clock, floors, measure, rows, timing
from bench.case import Arguments, Call, Way

CUDA = torch.device("cuda", 0)
REPLAY_US = 9.0
"""What a replay costs by itself."""


class Gpu:
    """Runs what is called at once; a graph runs again what was called in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.graph: list[float] | None = None
        self.log: list[str] = []
        self.pools: list[Any] = []

    def kernel(self, name: str, microseconds: float) -> None:
        if self.graph is None:
            self.run(microseconds)
        else:
            self.graph.append(microseconds)
        self.log.append(name)

    def run(self, microseconds: float) -> None:
        self.now += microseconds

    def stand_in(self) -> dict[str, Any]:
        gpu = self

        class Graph:
            def pool(self) -> object:
                return self

            def replay(self) -> None:
                gpu.run(REPLAY_US + sum(self.nodes))

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                self.at = 0.0

            def record(self) -> None:
                self.at = gpu.now

            def synchronize(self) -> None: ...

            def elapsed_time(self, other: Event) -> float:
                return (other.at - self.at) / 1e3

        @contextmanager
        def capture(graph: Graph, pool: Graph | None) -> Iterator[None]:
            gpu.pools.append(pool)
            gpu.graph = graph.nodes = []  # type: ignore[attr-defined]
            yield
            gpu.graph = None

        stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
        return {
            "CUDAGraph": Graph,
            "Event": Event,
            "graph": capture,
            "stream": lambda stream: nullcontext(),
            "Stream": lambda: stream,
            "current_stream": lambda: stream,
            "synchronize": lambda: None,
            "set_sync_debug_mode": lambda mode: None,
        }


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    for name, value in made.stand_in().items():
        monkeypatch.setattr(torch.cuda, name, value)
    return made


def calls(gpu: Gpu, name: str, *microseconds: float) -> list[Call]:
    return [lambda us=each: gpu.kernel(name, us) for each in microseconds]


def test_a_replay_costs_nothing_itself_and_every_set_counts_as_often(gpu: Gpu) -> None:
    found = timing.captured(calls(gpu, "a", 10, 20, 60))
    assert found.copies % 3 == 0
    assert gpu.pools == [None, found.short]
    assert found.time() == (pytest.approx(30), None)
    assert timing.replayed(calls(gpu, "a", 4.0)).p50 == pytest.approx(4)


def test_a_slow_call_gets_fewer_copies_and_samples(gpu: Gpu) -> None:
    fast, slow = (timing.captured(calls(gpu, "a", us)) for us in (5.0, 50_000.0))
    assert (fast.copies, fast.samples) == (20, 25)
    assert (slow.copies, slow.samples) == (1, 5)
    assert slow.time()[0] == pytest.approx(50_000)


def test_what_undoes_a_call_is_subtracted(gpu: Gpu) -> None:
    found = timing.captured(calls(gpu, "a", 7, 9), calls(gpu, "undo", 2, 4))
    assert found.time()[0] == pytest.approx(8)
    assert "".join(name[0] for name in gpu.log[-8:]) == "uauauaua"


def test_what_a_call_owns_lives_as_long_as_its_graphs(gpu: Gpu) -> None:
    """A replay reads it: freed, it would be the memory of whoever came next."""

    class Mask: ...

    mask = Mask()
    alive = weakref.ref(mask)
    found = timing.captured([lambda mask=mask: gpu.kernel("a", 5.0)])
    del mask
    gc.collect()
    assert alive() is not None and found.time()[0] == pytest.approx(5)
    del found
    gc.collect()
    assert alive() is None


def test_the_clock_is_read_once_a_replay(gpu: Gpu) -> None:
    readings = iter(range(1000, 2000))
    found = timing.alternated({"a": timing.captured(calls(gpu, "a", 5.0))}, lambda: next(readings))
    assert found["a"].megahertz == tuple(range(1000, 1000 + found["a"].timing.samples))


class OnGpu(Doubling):
    """Two ways of ours and one that fails where it is captured; a reset."""

    gpu: Gpu

    def ours(self, device: torch.device) -> list[Way]:
        def way(name: str, microseconds: float) -> Way:
            def prepare(arguments: Arguments) -> Callable[[], Any]:
                def call() -> Any:
                    self.gpu.kernel(name, microseconds)
                    if name == "waits" and self.gpu.graph is not None:
                        raise RuntimeError("cannot be captured")
                    return self.call(arguments)

                return call

            return Way(name, False, prepare)

        return [way("fast", 5.0), way("slow", 8.0), way("waits", 1.0)]

    def reset(self, arguments: Arguments) -> Call:
        return lambda: self.gpu.kernel("undo", 3.0)


def test_a_case_on_a_gpu_becomes_rows(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = floors.Rates(1e12, 1e12, 1e12, 1e12)
    monkeypatch.setattr(floors, "rates", lambda device, dtype: rates)
    monkeypatch.setattr(measure, "_stream_us", lambda device, num_bytes: 1.0)
    monkeypatch.setattr(measure, "_cache_bytes", lambda device: 2048)
    monkeypatch.setattr(clock, "reader", lambda device: lambda: 1980.0)
    monkeypatch.setattr(OnGpu, "gpu", gpu, raising=False)
    case, machine = OnGpu(), rows.machine("", CPU)
    found = {row.backend: row for row in measure.measured(case, measure.Plan(CUDA), machine)}
    assert {name: row.status for name, row in found.items()} == {
        "fast": rows.OK,
        "slow": rows.OK,
        "waits": rows.REFUSED,
    }
    assert found["fast"].us_p50 == pytest.approx(5) and found["slow"].us_p50 == pytest.approx(8)
    assert {found[name].inputs for name in ("fast", "slow")} == {"cold"}  # 20 sets of 512 bytes
    assert found["fast"].sm_mhz == 1980 and (found["fast"].us_eager or 0) > 0
    assert "cannot be captured" in found["waits"].reason and found["waits"].us_p50 is None


class Nvml:
    """As much of the library as is asked, with the status that each function ends with."""

    def __init__(self, *statuses: int, gpus: int = 2) -> None:
        self.statuses, self.gpus, self.asked = statuses, gpus, b""

    def nvmlInit_v2(self) -> int:
        return self.statuses[0]

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:
        self.asked = name
        return self.statuses[1]

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        return index

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: int, clock: Any) -> int:
        assert kind == 1
        clock._obj.value = 1755
        return self.statuses[2]


@pytest.mark.parametrize(
    ("library", "megahertz"),
    [
        (Nvml(0, 0, 0), 1755),
        (Nvml(2, 0, 0, gpus=1), None),
        (Nvml(0, 2, 0), None),  # one of two, and no telling which
        (Nvml(0, 2, 0, gpus=1), 1755),
        (Nvml(0, 0, 2), None),
    ],
)
def test_the_clock_is_that_of_the_device(
    library: Nvml, megahertz: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(uuid="0123-45")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    clock.reader.cache_clear()
    assert clock.reader(CUDA)() == megahertz
    assert library.asked == (b"" if library.statuses[0] else b"GPU-0123-45")
    clock.reader.cache_clear()


def test_without_the_library_there_is_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    clock.reader.cache_clear()
    assert clock.reader(CUDA)() is None
    clock.reader.cache_clear()
