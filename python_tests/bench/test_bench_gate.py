"""Nothing wrong gets a time: planted wrong kernels, each wrong in its own way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_cases import CASE_SEED, CPU, Doubling, doubled, our_way

import sparrow_kernels
from bench import gate, measure, registry, rows, run
from bench.case import Arguments, TorchWay, Way

PLAN = measure.Plan(CPU, seconds=0.01)


def off_at_one_element(arguments: Arguments) -> Any:
    values, largest = doubled(arguments)
    values[7] += 1e-2
    return values, largest


def right_for_the_seed_that_is_timed(arguments: Arguments) -> Any:
    timed = Doubling().arguments(CPU, 0)["states"]
    values, largest = doubled({"states": timed})
    return values.clone(), largest


def leaves_one_unwritten(arguments: Arguments) -> Any:
    values, largest = doubled(arguments)
    values[-1] = float("nan")
    return values, largest


def names_the_next_one(arguments: Arguments) -> Any:
    values, largest = doubled(arguments)
    return values, largest + 1


def forgets_a_result(arguments: Arguments) -> Any:
    return (doubled(arguments)[0],)


def returns_another_shape(arguments: Arguments) -> Any:
    values, largest = doubled(arguments)
    return values[:-1], largest


def spoils_its_arguments(arguments: Arguments) -> Any:
    """Right where it is called once: the gate's arguments are fresh, so that must be no excuse."""
    arguments["states"].zero_()
    return doubled(arguments)


def fails(arguments: Arguments) -> Any:
    raise RuntimeError("no such kernel\nand more")


WRONG = [
    off_at_one_element,
    right_for_the_seed_that_is_timed,
    leaves_one_unwritten,
    names_the_next_one,
    forgets_a_result,
    returns_another_shape,
    spoils_its_arguments,
    fails,
]


@pytest.fixture(autouse=True)
def any_way_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted ways are ours, but no backends of the registry."""
    monkeypatch.setattr(Way, "chosen", lambda way: nullcontext())


def machine() -> rows.Machine:
    return rows.machine("a test", CPU)


@pytest.mark.parametrize("function", WRONG, ids=lambda function: function.__name__)
def test_what_is_wrong_gets_no_time(function: Callable[[Arguments], Any]) -> None:
    case = Doubling(wrong=(our_way("wrong", function),))
    found = {row.backend: row for row in measure.measured(case, PLAN, machine())}
    assert found["right"].status == rows.OK and found["right"].us_p50 is not None
    wrong = found["wrong"]
    assert wrong.status == rows.REFUSED
    assert wrong.us_p50 is None and wrong.percent_of_floor is None and wrong.samples == 0
    assert wrong.reason and "\n" not in wrong.reason


def test_the_reason_says_what_is_wrong() -> None:
    def reason(function: Callable[[Arguments], Any]) -> str:
        case = Doubling()
        wanted = gate.expected(case, CPU)
        return gate.refusal(case, our_way("wrong", function), CPU, wanted) or ""

    assert "wrong result: result 0: worst at (7,)" in reason(off_at_one_element)
    assert "result 1: integers differ" in reason(names_the_next_one)
    assert "1 tensors, expected 2" in reason(forgets_a_result)
    assert reason(fails) == "RuntimeError: no such kernel and more"


def test_what_takes_no_such_case_is_not_wrong() -> None:
    def refuses(arguments: Arguments) -> Any:
        raise NotImplementedError("takes no odd rows")

    case = Doubling(wrong=(our_way("choosy", refuses),))
    found = {row.backend: row for row in measure.measured(case, PLAN, machine())}
    assert found["choosy"].status == rows.UNAVAILABLE
    assert "takes no odd rows" in found["choosy"].reason


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_run_ends_with_1_where_ours_is_refused(
    is_ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = our_way("wrong", off_at_one_element)._replace(is_ours=is_ours)
    monkeypatch.setattr(registry, "cases", lambda *args: [Doubling(wrong=(way,))])
    status = run.main(["--all", "--smoke", "--device", "cpu", "--csv-only", "--out", str(tmp_path)])
    assert status == int(is_ours)
    (csv,) = tmp_path.glob("*.csv")
    assert {row.status for row in rows.read(csv)} == {rows.OK, rows.REFUSED}


def test_the_seed_of_the_gate_is_never_timed() -> None:
    assert CASE_SEED > measure._MOST_SETS


def test_a_result_of_another_precision_is_held_to_that_precision() -> None:
    case = Doubling()
    wanted = gate.expected(case, CPU)

    def half(arguments: Arguments) -> Any:
        values, largest = doubled(arguments)
        return values.bfloat16(), largest

    with sparrow_kernels.checks(False), torch.no_grad():
        # A peer may give another dtype; it is compared as what it gave.
        assert gate.refusal(case, our_way("half", half), CPU, wanted) is None


def test_sets_of_arguments_share_what_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A case with cold inputs prepares every way once a set: it must not compile once a set."""
    compiled = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **settings: compile_(function, backend=backend)
    )
    plain, way = TorchWay(doubled).ways()
    assert not plain.compiles and way.compiles
    case = Doubling(wrong=(way,))
    list(measure.measured(case, PLAN, machine()))  # compiled for the gate
    with torch.no_grad():  # as `measured` calls them
        calls = [way.prepare(case.arguments(CPU, seed)) for seed in range(5)]
        for call in calls:
            call()
    assert len(compiled) == 1
    list(measure.measured(Doubling(rows=32, wrong=(way,)), PLAN, machine()))
    assert len(compiled) == 2


def test_a_cpu_has_hot_inputs_whatever_was_asked() -> None:
    plan = PLAN._replace(inputs="cold")
    assert {row.inputs for row in measure.measured(Doubling(), plan, machine())} == {"hot"}
