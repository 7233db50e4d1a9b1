"""The speed goals: each is about cases that a full GPU run measures, and judges as it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from bench_cases import row

from bench import goals, registry, rows, run
from bench.matches import Match, matches
from bench.rows import Row
from bench.rules import AtMost, EitherWay, FasterThan, Flat, NeverSlower, OfFloor, Outcome, together
from bench.selection import Selection

CUDA = torch.device("cuda", 0)


def cell(us: float, percent: float | None = None, **peers: float) -> Match:
    found = [row(us=us, percent_of_floor=percent)]
    found += [
        row(us=time, ours=False, backend=name.replace("__", ", ")) for name, time in peers.items()
    ]
    return matches(found)[0]


@pytest.mark.parametrize("goal", goals.GOALS, ids=lambda goal: goal.name)
def test_a_full_run_measures_what_a_goal_needs(goal: goals.Goal) -> None:
    found = registry.cases(Selection("cuda", "full"))
    names = {
        (case.op, str(case.dtype).removeprefix("torch."), frozenset(case.name.split()))
        for case in found
    }
    for shape in goal.shapes:
        words = frozenset(f"{word}={value}" for word, value in shape.items())
        assert (goal.op, goal.dtype, words) in names


def verdict(outcome: Outcome) -> bool | None:
    return outcome.is_met


def test_times_and_shares() -> None:
    assert verdict(AtMost(4)([cell(4.0)])) is True
    assert verdict(AtMost(4)([cell(4.1)])) is False
    assert verdict(AtMost(4)([None])) is None
    assert verdict(OfFloor(70)([cell(9, percent=70.0)])) is True
    assert verdict(OfFloor(70)([cell(9, percent=69.0)])) is False
    assert verdict(OfFloor(70)([cell(9)])) is None
    assert "stretch met" in OfFloor(70, 78)([cell(9, percent=80.0)]).text
    assert "stretch met" not in OfFloor(70, 78)([cell(9, percent=77.0)]).text


def test_the_fastest_form_of_a_peer_counts() -> None:
    rule = FasterThan(3, "sdpa", ("sdpa",))
    assert verdict(rule([cell(10, sdpa__math=90, sdpa__cudnn=30, flex=1)])) is True
    assert verdict(rule([cell(10, sdpa__math=90, sdpa__cudnn=29)])) is False
    assert verdict(rule([cell(10, flex=90)])) is None
    assert rule([cell(10, sdpa__cudnn=29)]).text == "2.90 x (sdpa, cudnn)"


def test_every_cell_and_the_mean() -> None:
    rule = NeverSlower(0.95, 1.3, "all", ("sdpa", "flashinfer"), without="cascade")
    fast, even, slow = (cell(10, sdpa=us, flashinfer__cascade=1) for us in (20.0, 9.6, 9.4))
    assert verdict(rule([fast, even])) is True
    assert verdict(rule([fast, slow])) is False
    assert verdict(rule([even, even])) is False  # nowhere slower, and no faster either
    assert verdict(rule([fast, None])) is None
    assert verdict(rule([slow, None])) is False  # a cell to come cannot mend it
    assert verdict(rule([None, None])) is None
    alone = NeverSlower(0.95, 1.3, "cascade", ("flashinfer",), only="cascade")
    assert verdict(alone([fast])) is False and "0.10 x" in alone([fast]).text


def test_flat_and_its_slack() -> None:
    rule = Flat(percent=5, microseconds=0.3)
    assert verdict(rule([cell(4.0), cell(4.3)])) is True  # 0.3 us is more than 5 %
    assert verdict(rule([cell(4.0), cell(4.4)])) is False
    assert verdict(rule([cell(100.0), cell(104.9)])) is True
    assert verdict(rule([cell(100.0), cell(105.1)])) is False
    assert verdict(rule([None, cell(4.0)])) is None
    third = Flat(times=1 / 3)
    assert verdict(third([cell(30.0), cell(9.9)])) is True
    assert verdict(third([cell(30.0), cell(10.1)])) is False


def test_together_and_either_way() -> None:
    both = together(AtMost(12), FasterThan(4, "sdpa", ("sdpa",)))
    assert verdict(both([cell(10, sdpa=40)])) is True
    assert verdict(both([cell(10, sdpa=39)])) is False
    assert verdict(both([cell(10)])) is None
    assert verdict(both([cell(13)])) is False
    either = EitherWay(AtMost(5), OfFloor(77))
    assert verdict(either([cell(10, percent=80.0)])) is True
    assert verdict(either([cell(4)])) is True
    assert verdict(either([cell(10, percent=70.0)])) is False
    assert verdict(either([cell(10)])) is None


def on_gpu(found: Sequence[Row]) -> dict[str, Outcome]:
    return {goal.name: outcome for goal, outcome in goals.judged(found)}


def test_a_cpu_meets_no_goal() -> None:
    assert on_gpu([row(us=1.0)])["build_tree, T = 64, B = 1"].is_met is None
    outcome = on_gpu([row(us=1.0, cuda="13.0")])["build_tree, T = 64, B = 1"]
    assert outcome.is_met is True and outcome.because == (row(us=1.0, cuda="13.0"),)


def test_cold_inputs_count_where_there_are_both() -> None:
    found = [row(us=1.0, cuda="13.0"), row(us=9.0, cuda="13.0", inputs="cold")]
    assert on_gpu(found)["build_tree, T = 64, B = 1"].text == "9.00 us"


def test_cold_and_hot_are_never_compared() -> None:
    name = "draft attention at 25,000 against ours over the whole cache"
    whole, draft = "prefix=25300 T=8 B=1", "visual=25000 anchors=300 window=128 T=8 B=1"

    def judged(**times: Sequence[float]) -> Outcome:
        found = [
            row(op="tree_attention", case=f"model=qwen2.5-vl-7b {case}", dtype="bfloat16",
                cuda="13.0", inputs=inputs, us=us)
            for inputs, of_state in times.items()
            for case, us in zip((whole, draft), of_state, strict=False)
            if us
        ]  # fmt: skip
        return on_gpu(found)[name]

    assert judged(cold=(30, 9), hot=(20, 9)).is_met is True
    assert judged(cold=(30, 0), hot=(20, 9)).is_met is False  # both of them hot
    assert judged(cold=(30, 0), hot=(0, 9)) == (None, "cold inputs against hot ones", ())


def test_what_a_goal_needs_is_measured_first() -> None:
    cases = run._cases(run._parser().parse_args(["--all", "--device", "cuda"]), CUDA)
    values = [goals.value(case) for case in cases]
    assert values == sorted(values) and set(values) == {0, 1, 2}
    needed = {
        (goal.op, frozenset(f"{word}={shape[word]}" for word in shape))
        for goal in goals.GOALS
        for shape in goal.shapes
        if len(goal.shapes) <= 2
    }
    first = cases[: values.index(1)]
    assert {(case.op, frozenset(case.name.split())) for case in first} == needed


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ended(us: float) -> int:
        writer = rows.Writer(tmp_path / "found")
        writer.write([row(us=us, cuda="13.0")])
        writer.close()
        return goals.main([str(tmp_path / "found.csv")])

    assert ended(3.0) == 0
    shown = capsys.readouterr().out
    assert "met 3.00 us" in " ".join(shown.split()) and "not measured" in shown
    assert "build_tree, T = 64, B = 1: build_tree | T=64 B=1 | int32 | hot | native" in shown
    assert ended(5.0) == 1
