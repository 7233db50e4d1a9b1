"""Predictions: the model against what an H200 measured, the sweep of plans, the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_cases import row
from torch.utils._python_dispatch import TorchDispatchMode

import sparrow_kernels
from bench import blocks, goals, plans, predict, predicted, registry, report
from bench.case import Case
from bench.cases import tree
from bench.cases.forms import Float8TreeAttention
from bench.devices import A100, DEVICES, H100, H200, Device
from bench.plans import Call, Cut, Step
from bench.selection import Selection
from sparrow_kernels.ops.attention.triton.configurations import Configuration

# Nodes, tiles, splits, microseconds: graph replays with cold inputs on an H200, 25,600 slots.
MEASURED = (
    (1, (16, 0, 64, 32, 4, 4, 2), 33, 20.7),
    (1, (16, 0, 64, 32, 4, 4, 2), 66, 23.8),
    (1, (16, 0, 64, 32, 4, 4, 2), 132, 29.8),
    (8, (64, 0, 64, 32, 4, 3, 1), 16, 31.3),
    (8, (64, 0, 64, 32, 4, 3, 1), 32, 22.5),
    (8, (64, 0, 64, 32, 4, 5, 1), 32, 22.6),
    (30, (128, 128, 64, 16, 8, 2, 1), 8, 143.9),
    (30, (128, 128, 64, 16, 8, 2, 1), 32, 50.5),
    (30, (128, 128, 64, 16, 8, 2, 1), 66, 66.8),
    (30, (128, 128, 64, 16, 8, 3, 1), 32, 41.3),
    (30, (128, 0, 128, 32, 8, 3, 1), 16, 40.6),
    (60, (128, 128, 64, 16, 8, 2, 1), 16, 93.1),
    (60, (128, 128, 64, 16, 8, 2, 1), 33, 102.9),
    (60, (128, 0, 128, 32, 8, 3, 1), 8, 74.0),
    (60, (128, 0, 64, 32, 8, 5, 1), 16, 80.3),
)


THEN = plans.Costs(fixed=7.4, reading=1.0, masked=3.0, merge=1.0, merge_bytes=5.5e6, merge_pass=0.9)
"""Of kernels whose programs divided six times before their first copy."""


def in_whole_runs(
    length: int, nodes: int, chosen: Configuration, splits: int
) -> Iterator[tuple[int, int]]:
    """As the kernel that was measured shared its tiles."""
    tiles = length // chosen.block_n
    run = -(-tiles // splits)
    masked = -(-(length - tiles * chosen.block_n + nodes) // chosen.block_t)
    tree_split = min(tiles // run, splits - 1)
    for split in range(splits):
        yield max(0, min(run, tiles - split * run)), masked if split == tree_split else 0


def a_program_a_row(call: Call, chosen: Configuration, splits: int) -> float:
    """What the merge took then: a program a row, and 32 splits at once."""
    parts = splits * call.heads * call.nodes * call.head_dim
    return 1.3 + 2 * parts * call.dtype.itemsize / 1.87e6 + 1.9 * (-(-splits // 32) - 1)


@pytest.mark.parametrize(("nodes", "tiles", "splits", "us"), MEASURED, ids=str)
def test_the_model_says_what_was_measured(
    nodes: int, tiles: tuple[int, ...], splits: int, us: float
) -> None:
    chosen = Configuration(*tiles)
    found = plans.of_configuration(
        H200, Call(nodes, (25_600,)), chosen, splits, in_whole_runs, a_program_a_row, THEN
    )
    assert found.us == pytest.approx(us, rel=0.09)


@pytest.mark.parametrize(("nodes", "us"), [(8, 25.7), (30, 35.0), (60, 60.2)])
def test_and_on_an_h100_with_the_merge_that_came_after(nodes: int, us: float) -> None:
    def merge(call: Call, chosen: Configuration, splits: int) -> float:
        return plans.merge_us(call, chosen, splits, THEN)

    call = Call(nodes, (25_600,))
    chosen, splits = plans.cut(H100, call)[:2]
    found = plans.of_configuration(H100, call, chosen, splits, merge=merge, costs=THEN)
    assert found.us == pytest.approx(us, rel=0.09)


@pytest.mark.parametrize(
    ("nodes", "slots", "us"),
    [(1, 25_600, 18.6), (8, 25_600, 19.4), (30, 25_600, 34.4), (60, 25_600, 58.5),
     (8, 512, 8.2), (30, 512, 10.9)],
)  # fmt: skip
def test_and_what_the_present_kernels_took_on_an_h200(nodes: int, slots: int, us: float) -> None:
    found = plans.cut(H200, Call(nodes, (slots,)))
    assert found.us == pytest.approx(us, rel=0.05 if slots > 512 else 0.1)


ROWS_128 = Configuration(128, 0, 64, 32, 8, 3, 1)
UNBOUND = H100._replace(bandwidth=1e15)
"""With it, what blocks do is all that counts."""


def of_splits(splits: int, *lengths: int) -> Cut:
    return plans.of_configuration(UNBOUND, Call(8, lengths), ROWS_128, splits)


def test_blocks_waves_and_balance() -> None:
    """8 nodes of a group of 7 are one row tile; 25,600 slots are 400 tiles."""
    whole = of_splits(1, 25_600)
    assert (whole.blocks, whole.waves, whole.balance) == (4, 4 / 132, 1.0)
    four = of_splits(4, 25_600)  # the tree, worth 6 tiles, behind 95, and 101 or 102 for the others
    assert (four.blocks, four.balance) == (16, pytest.approx(406 / 4 / 102))
    uneven = of_splits(33, 25_600)  # the tree behind 6, and 12 or 13 for the others
    assert (uneven.blocks, uneven.balance) == (4 * 33, pytest.approx(406 / 33 / 13))
    ragged = of_splits(1, 25_600, *[512] * 31)
    assert ragged.blocks == 128 and ragged.balance < 0.1


def test_a_second_wave_takes_as_long_again() -> None:
    one, two = of_splits(1, *[25_600] * 33), of_splits(1, *[25_600] * 34)
    assert one.waves == 1 and 1.9 < two.us / one.us < 2.0
    # Longer blocks first or last: what ends last counts.
    last, first = of_splits(1, *[512] * 33, 25_600), of_splits(1, 25_600, *[512] * 33)
    assert last.us > first.us >= of_splits(1, 25_600).us


def test_no_call_is_faster_than_its_bytes() -> None:
    call = Call(8, (131_072,) * 64)
    slow = H100._replace(bandwidth=1e11)
    num_bytes = 2 * 64 * 131_072 * 4 * 128 * 2
    us = plans.of_configuration(slow, call, ROWS_128, 4).us
    assert us == pytest.approx(1e6 * plans.PRESENT.reading * num_bytes / 1e11, rel=0.01)
    assert plans.PRESENT.reading >= 1


def test_more_is_never_predicted_to_take_less_for_nothing() -> None:
    times = [of_splits(4, length).us for length in (512, 4_096, 25_600, 131_072)]
    assert times == sorted(times)
    two = ROWS_128._replace(num_stages=2)
    assert plans.of_configuration(UNBOUND, Call(8, (25_600,)), two, 8).us > of_splits(8, 25_600).us


@pytest.mark.parametrize("device", [H100, A100], ids=lambda device: device.name)
def test_no_call_takes_much_longer_than_the_one_beside_it(device: Device) -> None:
    """But at 512 slots, where a second wave of blocks is most of a call."""
    found = [(step.worse(device), step) for step in plans.steps()]
    assert len(found) > 2_500
    long = [(times, step) for times, step in found if step.first.lengths[0] > 512]
    assert [f"{times:.2f} x: {step}" for times, step in long if times > plans.WORST] == []
    assert max(times for times, _ in found) < 1.7


def test_a_long_request_is_split_among_short_ones() -> None:
    """Beside one alone it has fewer blocks to itself, but not a thousand times fewer."""
    alone = plans.cut(H100, Call(30, (25_600,))).us
    for batch in (8, 32):
        assert plans.cut(H100, plans.ragged(batch)).us < 5 * alone


def test_a_cliff_between_two_calls_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """136 blocks, one more than fit at once for each of the four KV heads."""
    monkeypatch.setattr(plans.configurations, "split_count", lambda *_: 1)
    monkeypatch.setattr(plans, "cut", plans.cut.__wrapped__)  # what it remembers is not planted
    calls = [Call(9, (25_600,) * batch) for batch in (32, 33, 34)]
    assert Step(calls[0], calls[1]).worse(UNBOUND) < plans.WORST
    assert Step(calls[1], calls[2]).worse(UNBOUND) > plans.WORST


def test_every_case_has_a_prediction_and_says_what_it_is() -> None:
    found = list(predict.rows())
    keys = {(each["op"], each["case"], each["device"]) for each in found}
    assert len(keys) == len(found)
    cases = registry.cases(Selection("cuda", "full"))
    assert keys == {
        (case.op, case.name, device.name)
        for case in cases
        for device in DEVICES
        if predict.runs(case, device)
    }
    assert {type(case) for case in cases if not predict.runs(case, A100)} == {Float8TreeAttention}
    for each in found:
        low, high, floor = (float(each[name]) for name in ("us_low", "us_high", "floor_us"))
        assert 0 < floor < high and low < high
        middle = (low + high) / 2
        assert float(each["percent_of_floor"]) == pytest.approx(100 * floor / middle, abs=1)
        assert each["basis"].endswith("predicted, not measured")


@pytest.mark.parametrize(
    ("case", "most_us", "least_percent"),
    [("tree_attention,model=qwen2.5-vl-7b prefix=25600 T=8 B=1", 24.5, 71),
     ("tree_attention,model=qwen2.5-vl-7b prefix=25600 T=30 B=1", 34.0, 50),
     ("tree_attention,model=qwen2.5-vl-7b prefix=25600 T=60 B=1", 61.5, 50),
     ("commit_tree_,model=qwen2.5-vl-7b prefix=512 T=60 B=1", 5.0, 0),
     ("accept_tree_residual,vocab=152064 levels=4 refused=3 B=1", 17.0, 0)],
)  # fmt: skip
def test_what_is_predicted_for_an_h100(case: str, most_us: float, least_percent: int) -> None:
    """The first is 75 % by the plan, and residual acceptance 14 us: neither is reached."""
    (found,) = [
        each
        for each in predict.rows()
        if (f"{each['op']},{each['case']}", each["device"]) == (case, "H100")
    ]
    assert (float(found["us_low"]) + float(found["us_high"])) / 2 <= most_us
    assert int(found["percent_of_floor"]) >= least_percent


def test_an_op_that_nothing_is_known_of_is_named() -> None:
    case = registry.cases(Selection("cuda", "quick"), ["tree"])[0]
    object.__setattr__(case, "op", "grow_tree")
    with pytest.raises(ValueError, match="no steps of grow_tree"):
        predict.microseconds(case, H100)


def test_the_file_is_what_the_present_tables_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["--check"]) == 0, "run: python -m bench.predict"
    assert capsys.readouterr().out == "up to date\n"


def test_predicted_stands_beside_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = frozenset({"T=64", "B=1"})
    table = {("build_tree", words, "H200"): predicted.Prediction(2, 4.125, 0.1, 3)}
    table[("build_tree", words, "H100")] = predicted.Prediction(1, 3, 0.1, 5)
    monkeypatch.setattr(predicted, "read", lambda: table)
    report.print_rows([row(device="NVIDIA H200"), row(ours=False, backend="torch", us=30.0)])
    head, ours, peer = capsys.readouterr().out.splitlines()[2:5]
    assert head.endswith("predicted us") and ours.endswith("2–4.12") and peer.endswith("-")
    report.print_rows([row(device="a CPU")])
    assert "predicted" not in capsys.readouterr().out
    goal = next(each for each in goals.GOALS if each.name == "build_tree, T = 64, B = 1")
    assert goals.forecast(goal, "H200") == "2–4.12 us" and goals.forecast(goal, "A100") == "-"
    assert "| 1–3 µs |" in blocks.speed_goals(Path("/nowhere"))
    verify = next(each for each in goals.GOALS if "25,600, T = 8" in each.name)
    table[("tree_attention", frozenset(_words(verify)), "H100")] = predicted.Prediction(
        20, 30, 17, 68
    )
    assert goals.forecast(verify, "H100") == "20–30 us (68 %)"
    cells = next(each for each in goals.GOALS if len(each.shapes) > 2)
    monkeypatch.setattr(predicted, "of_case", lambda *_: predicted.Prediction(1, 3, 0.1, 5))
    assert goals.forecast(cells, "H100") == "-"  # they are too many


def _words(goal: goals.Goal) -> list[str]:
    return [f"{word}={value}" for word, value in goal.shapes[0].items()]


FILES = {
    "sample": ("sample_tokens", "sample_logits"),
    "topk": ("topk_logprobs",),
    "select": ("select_tree",),
    "gather": ("gather_hidden",),
    "commit": ("commit_tree_", "commit_path_", "compact_cache_"),
}


@pytest.mark.parametrize("file", FILES)
def test_as_many_launches_as_the_source_has(file: str) -> None:
    source = (Path(__file__).resolve().parents[2] / f"csrc/cuda/{file}.cu").read_text()
    launches = len(re.findall(r"^ +launch\(", source, re.M))
    assert {predict._STEPS[op].launches for op in FILES[file]} == {launches}


class Launches(TorchDispatchMode):
    """Counts what fills a tensor."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        pads = func is torch.ops.aten.constant_pad_nd.default  # filled, then copied to
        self.count += 0 if func.is_view else 1 + pads
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [tree.DenseTreeMask, tree.PackAncestors, tree.UnpackAncestors])
def test_as_many_launches_as_pytorch_makes(kind: type[Case]) -> None:
    case = kind()
    arguments = case.arguments(torch.device("cpu"), 0)
    with sparrow_kernels.checks(False), Launches() as made:
        case.call(arguments)
    assert predict._STEPS[case.op].launches == made.count


def test_rates_of_a_device() -> None:
    rates = H200.rates(torch.bfloat16)
    assert rates.bytes == pytest.approx(4.37e12, rel=0.01)  # as bench.run measured
    assert rates.flops == pytest.approx(688e12, rel=0.01)
    assert H200.rates(torch.float32).flops < rates.flops / 10
