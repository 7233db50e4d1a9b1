"""Measures one case: every way through the gate, then those that passed, in turns, into rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

import sparrow_kernels
from bench import clock, floors, gate, rows, timing
from bench.case import Arguments, Call, Case, Way, tensors_of
from bench.load import Load

_COLD = 5
"""Inputs are cold if they rotate over sets of this many times the last-level cache: one that evicts
at random still has 6 % of them at three times its size, 0.7 % at five."""
_MOST_SETS = 512
_MOST_BYTES = 24 << 30
"""What all of the sets may take. What is read of one may be little of it."""


class Plan(NamedTuple):
    """How to measure."""

    device: torch.device
    seconds: float = 1.0
    """Of timing for a case, on a CPU, all its ways together."""
    inputs: str = "auto"
    """hot, cold, both; auto: cold on a GPU where the sets are not too many or too large."""
    allowed: Callable[[Way], str | None] = lambda way: None
    """Why a way is left out of this run, None if it is not."""


class Times(NamedTuple):
    """What was found of one way."""

    replayed: timing.Timing
    """On a CPU: called."""
    eager: float | None = None
    """Microseconds of the host."""
    megahertz: float | None = None
    others_percent: float | None = None


def measured(case: Case, plan: Plan, machine: rows.Machine) -> Iterator[rows.Row]:
    """The rows of `case`, every way in turn; nothing that the gate refuses is timed."""
    device = plan.device
    with torch.set_grad_enabled(needs_grad(case)), sparrow_kernels.checks(False):
        wanted: gate.Expected | None = None
        failure = ""
        try:
            wanted = gate.expected(case, device)
        except Exception as error:  # the other cases of the run are none the worse for it
            failure = f"nothing to compare with: {gate.in_a_line(error)}"
        passed: list[Way] = []
        ways = [*case.ours(device), *case.peers(device)]
        if any(way.compiles and plan.allowed(way) is None for way in ways):
            # One case after another is no change of shape within one program, but the sets of
            # arguments of a case share what was compiled.
            torch._dynamo.reset()
        for way in ways:
            if way.unavailable is not None:
                yield _row(case, way, plan, machine, rows.UNAVAILABLE, way.unavailable)
                continue
            if (reason := plan.allowed(way)) is not None:
                yield _row(case, way, plan, machine, rows.NOT_RUN, reason)
                continue
            if wanted is None:
                yield _row(case, way, plan, machine, rows.REFUSED, failure)
                continue
            try:
                reason = gate.refusal(case, way, device, wanted)
            except NotImplementedError as error:  # it says itself that it takes no such case
                yield _row(case, way, plan, machine, rows.UNAVAILABLE, gate.in_a_line(error))
                continue
            if reason is None:
                passed.append(way)
            else:
                yield _row(case, way, plan, machine, rows.REFUSED, reason)
        del wanted
        if not passed:
            return
        for inputs in _states(case, plan):
            yield from _timed(case, passed, inputs, plan, machine)


def left_out(case: Case, plan: Plan, machine: rows.Machine, reason: str) -> Iterator[rows.Row]:
    """Rows of a case that this run does not get to."""
    for way in [*case.ours(plan.device), *case.peers(plan.device)]:
        yield _row(case, way, plan, machine, rows.NOT_RUN, reason)


def _timed(
    case: Case, ways: Iterable[Way], inputs: str, plan: Plan, machine: rows.Machine
) -> Iterator[rows.Row]:
    count = _sets(case, plan.device) if inputs == "cold" else 1
    sets = [case.arguments(plan.device, seed) for seed in range(count)]
    stream = _stream_us(plan.device, case.bytes())
    if plan.device.type == "cpu":
        load = Load()
        times = _on_cpu(case, list(ways), sets[0], plan.seconds)
        others = load.others_percent()
        for way, called in times.items():
            found = Times(called, others_percent=others)
            yield _row(case, way, plan, machine, rows.OK, "", inputs, found, stream)
        return
    ready: dict[str, tuple[Way, float, timing.Captured]] = {}
    for way in ways:
        try:
            with way.chosen():
                ready[way.name] = (way, *_on_gpu(case, way, sets))
        except Exception as error:  # such as a peer that cannot be captured in a graph
            torch.cuda.synchronize()
            reason = gate.in_a_line(error)
            yield _row(case, way, plan, machine, rows.REFUSED, reason, inputs)
    graphs = {name: graph for name, (_, _, graph) in ready.items()}
    replays = _steady(graphs, clock.reader(plan.device))
    for name, (way, eager, _) in ready.items():
        took, megahertz = replays[name]
        if (movement := clock.moved(megahertz)) is not None:
            yield _row(case, way, plan, machine, rows.UNSTEADY, movement, inputs)
            continue
        typical = timing.Timing.of(megahertz).p50 if megahertz else None
        found = Times(took, eager, typical)
        yield _row(case, way, plan, machine, rows.OK, "", inputs, found, stream)


def _steady(
    graphs: dict[str, timing.Captured], read: Callable[[], float | None]
) -> dict[str, timing.Replays]:
    """Times of all, in turns; a second try where the clock moved under one of them."""
    found = timing.alternated(graphs, read)
    if any(clock.moved(each.megahertz) for each in found.values()):
        return timing.alternated(graphs, read)
    return found


def _on_cpu(
    case: Case, ways: list[Way], arguments: Arguments, seconds: float
) -> dict[Way, timing.Timing]:
    """Times of all ways; where a call must be undone, less what undoing takes."""
    reset = case.reset(arguments)
    by_name = {way.name: way for way in ways}
    calls: dict[str, Call] = {}
    for name, way in by_name.items():
        with way.chosen():
            call = way.prepare(arguments)
        calls[name] = call if reset is None else timing.after(reset, call)
    if reset is not None:
        calls["reset"] = reset

    def around(name: str) -> AbstractContextManager:
        return by_name[name].chosen() if name in by_name else nullcontext()

    found = timing.interleaved(calls, around=around, seconds=seconds)
    undone = found.pop("reset").p50 if reset is not None else 0.0
    return {way: found[way.name].less(undone) for way in ways}


def _on_gpu(case: Case, way: Way, sets: list[Arguments]) -> tuple[float, timing.Captured]:
    """What the host does for a call, and the call captured."""
    calls = [way.prepare(arguments) for arguments in sets]
    resets = [reset for arguments in sets if (reset := case.reset(arguments)) is not None]
    graphs = timing.captured(calls, resets or None)  # first: everything is compiled then
    return timing.host_time(calls, resets or None), graphs


def needs_grad(case: Case) -> bool:
    """Whether its passes go backward."""
    return getattr(case, "passes", "forward") != "forward"


def _states(case: Case, plan: Plan) -> list[str]:
    """Whether to measure with hot inputs, cold ones or both."""
    can_be_cold = plan.device.type == "cuda" and _fit(case, plan.device)
    if plan.inputs == "auto":
        return ["cold" if can_be_cold else "hot"]
    if plan.inputs == "both":
        return ["hot", "cold"] if can_be_cold else ["hot"]
    # On a CPU no sets are rotated over, whatever was asked.
    return [plan.inputs if plan.device.type == "cuda" else "hot"]


def _fit(case: Case, device: torch.device) -> bool:
    """Whether the sets of arguments that cold inputs take are few and small enough."""
    count = _sets(case, device)
    if count > _MOST_SETS:
        return False
    one = sum(tensor.nbytes for tensor in tensors_of(case.arguments(device, 0)))
    return count * one <= _MOST_BYTES


def _sets(case: Case, device: torch.device) -> int:
    """How many sets of arguments it takes for none to be found in the cache."""
    return max(1, math.ceil(_COLD * _cache_bytes(device) / max(case.bytes(), 1)))


@cache
def _cache_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    kilobytes = [int(size.read_text(encoding="utf-8").strip("K\n")) for size in sizes]
    return 1024 * max(kilobytes, default=0)


@cache
def _stream_us(device: torch.device, num_bytes: int) -> float:
    return floors.stream_time(device, num_bytes).p50


def _row(
    case: Case,
    way: Way,
    plan: Plan,
    machine: rows.Machine,
    status: str,
    reason: str,
    inputs: str = "",
    found: Times | None = None,
    stream: float | None = None,
) -> rows.Row:
    floor = floors.floor(case, floors.rates(plan.device, case.dtype))
    return rows.Row(
        op=case.op,
        case=case.name,
        backend=way.name,
        ours=way.is_ours,
        dtype=str(case.dtype).removeprefix("torch."),
        inputs=inputs,
        status=status,
        reason=reason,
        us_p20=found.replayed.p20 if found else None,
        us_p50=found.replayed.p50 if found else None,
        us_p80=found.replayed.p80 if found else None,
        samples=found.replayed.samples if found else 0,
        us_eager=found.eager if found else None,
        sm_mhz=found.megahertz if found else None,
        others_percent=found.others_percent if found else None,
        bytes=case.bytes(),
        flops=case.flops(),
        exps=case.exps(),
        issued_flops=case.issued_flops(way),
        floor_us=floor.microseconds,
        bound=floor.bound,
        percent_of_floor=floor.percent(found.replayed.p50) if found else None,
        stream_us=stream,
        **asdict(machine),
    )
