"""The clock against what is known: a sleep, a copy, a step that is undone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import pytest
import torch
from bench_cases import CPU, Doubling, doubled, our_way

from bench import clock as clock_of
from bench import floors, measure, rows, timing
from bench.case import Way
from bench.timing import Timing


class Clock:
    """Time that passes only in `sleep`: what a busy machine does cannot be seen in it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def test_percentiles() -> None:
    assert Timing.of([5, 1, 4, 2, 3, 6]) == Timing(2, 3.5, 5, 6)
    assert Timing.of([7]) == Timing(7, 7, 7, 1)
    assert Timing.of([10, 20]) == Timing(12, 15, 18, 2)
    assert Timing(1, 2, 5, 3).spread == 4
    assert Timing(3, 4, 6, 9).less(1.5) == Timing(1.5, 2.5, 4.5, 9)


def test_a_sleep_takes_as_long_as_it_took() -> None:
    """By its own clock, as a busy machine may wake it late."""
    seconds, slept = 0.02, []

    def sleep() -> None:
        began = time.perf_counter()
        time.sleep(seconds)
        slept.append(1e6 * (time.perf_counter() - began))

    took = timing.interleaved({"sleep": sleep}, rounds=5)["sleep"]
    assert took.samples == 5 and len(slept) == 2 + 5
    inside = Timing.of(slept[2:])
    assert 1e6 * seconds <= inside.p50 <= took.p50
    assert took.p50 == pytest.approx(inside.p50, rel=0.25)


def test_every_way_gets_its_own_time(clock: Clock) -> None:
    lengths = {"a": 3e-6, "b": 5e-3, "c": 0.2}
    calls = {name: lambda s=seconds: clock.sleep(s) for name, seconds in lengths.items()}
    found = timing.interleaved(calls, rounds=6, seconds=1e9)
    for name, seconds in lengths.items():
        assert found[name].samples == 6
        assert found[name][:3] == pytest.approx([1e6 * seconds] * 3)


def test_a_short_call_is_timed_in_batches(clock: Clock) -> None:
    readings = 0
    read = clock.perf_counter

    def counted() -> float:
        nonlocal readings
        readings += 1
        clock.now += 1e-5  # what looking at the clock costs
        return read()

    clock.perf_counter = counted  # type: ignore[method-assign]
    found = timing.interleaved({"call": lambda: clock.sleep(1e-5)}, rounds=5)["call"]
    assert found.p50 == pytest.approx(10, rel=0.05)
    assert readings < 30


def test_a_copy_moves_bytes_at_the_rate_of_the_floors() -> None:
    source = torch.ones(floors._STREAM_BYTES["cpu"] // 4)
    target = torch.empty_like(source)
    rates, achieved = [], []
    for _ in range(20):  # other work can only make either of them look slower than it is
        floors._bandwidths.cache_clear()
        rates.append(floors._bandwidths(CPU)[0])
        took = timing.interleaved({"copy": lambda: target.copy_(source)}, seconds=0.1)["copy"]
        # The median, as the floors': on a core that five share, the fastest of a few is no match.
        achieved.append(2 * source.nbytes / (1e-6 * took.p50))
        if 1 / 3 < max(achieved) / max(rates) < 3:
            return
    pytest.fail(f"a copy ran at {achieved}, the floors' at {rates}")


def test_rates_of_the_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "_time", lambda device, call: Timing(1, 2, 3, 5))
    num_bytes, size = floors._STREAM_BYTES["cpu"], floors._PRODUCT["cpu"]
    monkeypatch.setattr(floors, "_bandwidths", floors._bandwidths.__wrapped__)
    monkeypatch.setattr(floors, "_matmul_rate", floors._matmul_rate.__wrapped__)
    monkeypatch.setattr(floors, "_exp_rate", floors._exp_rate.__wrapped__)
    rates = floors.rates.__wrapped__(CPU, torch.float32)
    # Two microseconds for: read and written, read, a product, 65,536 exponentials.
    assert rates == pytest.approx((1e6 * num_bytes, 5e5 * num_bytes, 1e6 * size**3, 5e5 * 65_536))
    assert rates.bytes == rates.copy_bytes


def test_twice_the_same_is_the_same_within_noise() -> None:
    source = torch.randn(1 << 16)
    seen = []
    for _ in range(4):  # the machine may be doing something else
        first, second = (
            timing.interleaved({"exp": source.exp}, seconds=0.3)["exp"] for _ in range(2)
        )
        noise = 3 * max(first.spread, second.spread, 0.05 * first.p50)
        seen.append((abs(first.p50 - second.p50), noise))
        if seen[-1][0] <= noise:
            return
    pytest.fail(f"medians differ by {seen}, which the spread does not say")


def test_ways_take_turns_in_a_rotating_order(clock: Clock) -> None:
    order: list[str] = []

    @contextmanager
    def around(name: str) -> Iterator[None]:
        order.append(name)
        yield

    calls = {name: lambda: clock.sleep(1e-3) for name in "abc"}
    timing.interleaved(calls, around=around, rounds=6, seconds=60)
    warm, turns = order[:3], order[3:]
    assert warm == ["a", "b", "c"]
    assert "".join(turns) == "abcbcacababcbcacab"


def test_it_ends_after_its_seconds_but_not_before_five_rounds(clock: Clock) -> None:
    def samples(seconds: float) -> int:
        calls = {"slow": lambda: clock.sleep(0.1)}
        return timing.interleaved(calls, seconds=seconds, rounds=25)["slow"].samples

    assert samples(0.0) == 5
    assert samples(0.99) == 10
    assert samples(99) == 25


def test_what_undoes_a_call_is_not_in_its_time(clock: Clock) -> None:
    class Undone(Doubling):
        def reset(self, arguments: object) -> Callable[[], None]:
            return lambda: clock.sleep(4e-3)

        def call(self, arguments: object) -> None:
            clock.sleep(1e-3)

    case = Undone()
    way = Way("slow", False, lambda arguments: lambda: case.call(arguments))
    found = measure._on_cpu(case, [way], case.arguments(CPU, 0), seconds=0.2)[way]
    assert found[:3] == pytest.approx([1000.0] * 3)


class Replayed:
    """In place of graphs: takes what it is told to, at a clock that it is told."""

    def __init__(self, name: str, log: list[str], samples: int, clocks: Sequence[float]) -> None:
        self.name, self.log, self.samples, self.clocks = name, log, samples, iter(clocks)

    def time(self, read_clock: object) -> tuple[float, float | None]:
        self.log.append(self.name)
        return float(len(self.log)), next(self.clocks, None)


def test_graphs_are_replayed_in_turns() -> None:
    log: list[str] = []
    ways = {
        "a": Replayed("a", log, 5, [1980, 1970, 1980]),
        "b": Replayed("b", log, 2, []),
        "c": Replayed("c", log, 3, []),
    }
    found = timing.alternated(ways)  # type: ignore[arg-type]
    assert "".join(log) == "abcbcacaaa"
    assert found["a"] == (Timing.of([1, 6, 8, 9, 10]), (1980, 1970, 1980))
    assert found["b"].timing == Timing.of([2, 4]) and found["b"].megahertz == ()
    assert timing.alternated({}) == {}


@pytest.mark.parametrize(
    ("megahertz", "still"),
    [
        ([], True),
        ([1980.0] * 9 + [1200.0], True),  # one wild reading
        ([1980.0, 1975.0, 1930.0, 1980.0], True),
        ([1980.0] * 5 + [1800.0] * 5, False),
    ],
)
def test_a_clock_that_moves(megahertz: list[float], still: bool) -> None:
    assert (clock_of.moved(megahertz) is None) == still


def test_a_row_whose_clock_moves_twice_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    moving, still = [1980.0, 1500.0] * 5, [1980.0] * 10
    ways = [our_way(name, doubled) for name in ("once", "twice", "never")]
    clocks = {"once": moving + still, "twice": moving + moving, "never": still + still}
    made = {name: Replayed(name, [], 10, clocks[name]) for name in clocks}
    monkeypatch.setattr(measure, "_on_gpu", lambda case, way, sets: (3.0, made[way.name]))
    monkeypatch.setattr(measure, "_stream_us", lambda device, num_bytes: 1.0)
    monkeypatch.setattr(Way, "chosen", lambda way: nullcontext())
    rates = floors.Rates(1e12, 1e12, 1e12, 1e12)
    monkeypatch.setattr(floors, "rates", lambda device, dtype: rates)
    monkeypatch.setattr(clock_of, "reader", lambda device: lambda: None)
    plan, machine = measure.Plan(torch.device("cuda", 0)), rows.machine("", CPU)
    found = {row.backend: row for row in measure._timed(Doubling(), ways, "hot", plan, machine)}
    assert {name: row.status for name, row in found.items()} == {
        "once": rows.OK,
        "twice": rows.UNSTEADY,
        "never": rows.OK,
    }
    assert found["twice"].us_p50 is None and "1500 and 1980 MHz" in found["twice"].reason
    assert found["never"].sm_mhz == 1980 and found["never"].us_eager == 3


def test_host_time_leaves_out_the_undoing_and_the_wait(clock: Clock) -> None:
    order: list[str] = []

    def took(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            clock.sleep(seconds)

        return run

    calls, resets = [took("a", 2e-5), took("b", 2e-5)], [took("r", 1e-3), took("s", 1e-3)]
    found = timing.host_time(calls, resets, wait=took("w", 1.0))
    assert found == pytest.approx(20)
    assert "".join(order).startswith("wrasbrasbrasbrasbwra")


def test_inputs_are_cold_where_their_sets_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_cache_bytes", lambda device: 50 << 20)
    plan = measure.Plan(torch.device("cuda", 0))

    def states(num_bytes: int) -> list[str]:
        return measure._states(Doubling(rows=num_bytes // 8), plan)

    assert measure._sets(Doubling(rows=1 << 17), plan.device) == 250
    assert states(1 << 20) == ["cold"]  # 250 sets, of half a MiB each
    assert states(1 << 18) == ["hot"]  # 1,000 of them
    monkeypatch.setattr(measure, "_MOST_BYTES", 100 << 20)
    assert states(1 << 20) == ["hot"]


def test_floor_is_the_largest_of_its_three_terms() -> None:
    rates = floors.Rates(copy_bytes=2e9, read_bytes=1e9, flops=1e9, exps=1e9)

    class Working(Doubling):
        def flops(self) -> int:
            return 10_000

    assert floors.floor(Doubling(rows=1_000), rates) == floors.Floor(4.0, "bytes")
    floor = floors.floor(Working(), rates)
    assert floor == floors.Floor(10.0, "flops")
    assert floor.percent(20.0) == 50
    assert floors.Floor(4.9, "bytes").percent(9.0) is None  # a launch is most of such a time
