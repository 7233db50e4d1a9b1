"""The command: what it writes, what it says, and how it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_cases import Doubling

from bench import measure, registry, rows, run, warm
from bench.case import Way
from bench.cases.sampling import TopkLogprobs
from bench.selection import Selection


def ran(folder: Path, *words: str) -> list[rows.Row]:
    assert run.main([*words, "--device", "cpu", "--out", str(folder), "--name", "found"]) == 0
    return rows.read(folder / "found.csv")


@pytest.mark.slow
def test_a_smoke_run_of_a_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ran(tmp_path, "--all", "--smoke", "--family", "cache")
    assert {row.op for row in found} == {"append_cache_", "rotate_append_"}
    timed = [row for row in found if row.status == rows.OK]
    assert {"reference", "index_put"} <= {row.backend for row in timed}
    for row in timed:
        assert row.us_p20 is not None and row.us_p50 is not None and row.us_p80 is not None
        assert 0 < row.us_p20 <= row.us_p50 <= row.us_p80
        assert row.samples >= 5 and row.inputs == "hot"
        assert row.bytes > 0 and row.floor_us > 0 and row.bound == "bytes"
        assert "bench.run --all --smoke" in row.command and row.device and row.torch and row.time
    left = [row for row in found if row.status != rows.OK]
    assert left and all(row.reason and row.us_p50 is None for row in left)
    shown = capsys.readouterr().out
    assert "gate: green" in shown and "rotate_append_" in shown and "x ours" in shown
    written = json.loads((tmp_path / "found.json").read_text())
    assert len(written) == len(found) and written[0]["op"] == found[0].op


@pytest.mark.parametrize("op", sorted(registry.kinds()))
def test_every_op_passes_its_own_gate(op: str, tmp_path: Path) -> None:
    """All of our backends at the shape of a smoke run."""
    (tmp_path / "out").mkdir()
    for case in registry.cases(Selection("cpu", "smoke")):
        if case.op == op:
            words = ",".join(case.name.split())
            found = ran(tmp_path / "out", "--op", op, "--smoke", "--shape", words,
                        "--peers", "none", "--seconds", "0.01")  # fmt: skip
            ours = [row for row in found if row.ours]
            assert {row.status for row in ours} <= {rows.OK, rows.UNAVAILABLE}
            assert any(row.us_p50 is not None for row in ours)


def test_a_shape_given_by_hand(tmp_path: Path) -> None:
    words = ["--op", "build_tree", "--shape", "T=12, B = 2", "--peers", "none", "--seconds", "0.01"]
    found = ran(tmp_path, *words, "--smoke")
    assert {row.case for row in found} == {"T=12 B=2"}
    assert found[0].parameters == {"T": "12", "B": "2"}
    assert {row.status for row in found if not row.ours} <= {rows.NOT_RUN, rows.UNAVAILABLE}


def test_any_model_by_its_sizes(tmp_path: Path) -> None:
    words = ["--op", "append_cache_", "--shape", "heads=6,kv_heads=3,head_dim=8,prefix=5,T=2"]
    found = ran(tmp_path, *words, "--seconds", "0.01", "--peers", "none")
    case = found[0].case
    assert case.startswith("model=6/3/8/") and case.endswith("prefix=5 T=2 B=1")
    assert found[0].bytes == 2 * 2 * 3 * 2 * 8 * 4 + 4  # K and V, read and written; the length
    again = registry.shaped("append_cache_", found[0].parameters, torch.float32)
    assert case in {each.name for each in again}


def test_what_nothing_can_be_compared_with_is_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TopkLogprobs, "contradiction", lambda case: None)
    words = ["--op", "topk_logprobs", "--shape", "vocab=10,k=64", "--device", "cpu", "--smoke"]
    assert run.main([*words, "--out", str(tmp_path), "--name", "found"]) == 1
    found = rows.read(tmp_path / "found.csv")
    assert rows.REFUSED in {row.status for row in found} and not any(row.us_p50 for row in found)
    assert "topk_logprobs R=8 vocab=10 k=64 native: nothing to compare" in capsys.readouterr().out


IMPOSSIBLE = [
    ("topk_logprobs", "vocab=10,k=64", "k must be at most vocab = 10"),
    ("select_tree", "pool=10,T=12", "T must be at most pool + 1 = 11"),
    ("accept_tree_residual", "vocab=9,refused=9", "refused must be below vocab = 9"),
    ("accept_tree_residual_logits", "vocab=9,refused=9", "refused must be below vocab = 9"),
    ("anchor_index", "slots=10,anchors=11", "anchors must be at most slots = 10"),
    ("anchored_window_attention", "percent=101", "percent must be at most 100"),
    ("tree_attention", "page_size=17,prefix=100,T=3", "page_size must divide 128 slots"),
    ("rotate_append_", "head_dim=7", "head_dim must be even"),
]


@pytest.mark.parametrize(("op", "shape", "reason"), IMPOSSIBLE)
def test_words_that_contradict_one_another_are_refused(
    op: str, shape: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run.main(["--op", op, "--shape", shape, "--device", "cpu", "--list"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"--shape: there is no {op}" in said and reason in said


def test_what_is_just_possible_is_a_case() -> None:
    for op, shape in (
        ("topk_logprobs", "vocab=10,k=10"),
        ("select_tree", "pool=10,T=11"),
        ("anchor_index", "slots=10,anchors=10"),
        ("accept_tree_residual", "vocab=9,refused=8"),
        ("tree_attention", "page_size=32,prefix=100,T=3"),
    ):
        assert run.main(["--op", op, "--shape", shape, "--device", "cpu", "--list"]) == 0


@pytest.mark.parametrize(
    ("number", "status", "how"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_run_that_a_signal_ends_keeps_what_it_measured_and_says_where(
    number: int,
    status: int,
    how: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured, calls = measure.measured, iter(range(9))

    def until_the_second(*words: Any) -> Any:
        if next(calls) == 1:
            assert callable(signal.getsignal(number)), "it would end the tests"
            signal.raise_signal(number)
        return measured(*words)

    monkeypatch.setattr(measure, "measured", until_the_second)
    words = ["--all", "--smoke", "--family", "tree", "--peers", "none", "--device", "cpu"]
    assert run.main([*words, "--out", str(tmp_path), "--name", "found"]) == status
    found = rows.read(tmp_path / "found.csv")
    assert found and {row.op for row in found} == {"build_tree"}
    assert len(json.loads((tmp_path / "found.json").read_text())) == len(found)
    said = capsys.readouterr().err
    assert f"{how}: {len(found)} rows until then" in said and "found.csv" in said


def test_a_family_named_twice_is_measured_once() -> None:
    selection = Selection("cpu", "quick")
    once = registry.cases(selection, ["tree", "cache"])
    assert registry.cases(selection, ["tree", "cache", "tree"]) == once


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_op_asked_for_by_name_pairs_with_a_run_of_all(device: str) -> None:
    """The same case, whatever dtype the run of all has it in."""
    selection = Selection(device, "full")
    for kind in (kind for kinds in registry.kinds().values() for kind in kinds):
        first = next((case for case in registry.cases(selection) if type(case) is kind), None)
        if first is not None:
            shape = dict(word.split("=", 1) for word in first.name.split())
            assert first in registry.shaped(first.op, shape, selection.dtype)


def test_what_an_earlier_run_measured_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--op", "build_tree", "--shape", "T=3", "--peers", "none", "--seconds", "0.01"]
    first = ran(tmp_path, *words)
    kept = tmp_path / "earlier/found-1.csv"
    for _ in range(2):  # of which nothing measures
        run.main(["--all", "--smoke", "--family", "tree", "--limit", "0", "--device", "cpu",
                  "--out", str(tmp_path), "--name", "found"])  # fmt: skip
        assert rows.read(kept) == first
    assert f"of an earlier run, kept: {kept}" in capsys.readouterr().out
    names = {f"found-{number}.{end}" for number in (1, 2) for end in ("csv", "json")}
    assert {path.name for path in kept.parent.iterdir()} == names


def test_only_what_was_asked_for(tmp_path: Path) -> None:
    words = ["--op", "append_cache_", "--shape", "model=tiny,prefix=8", "--seconds", "0.01"]
    found = ran(tmp_path, *words, "--peers", "index_put", "--backends", "reference", "--smoke")
    assert {row.backend for row in found if row.us_p50 is not None} == {"index_put", "reference"}


def test_what_compiles_may_be_left_out(tmp_path: Path) -> None:
    words = ["--op", "accept_tree", "--shape", "T=8", "--seconds", "0.01", "--no-compile"]
    found = {row.backend: row for row in ran(tmp_path, *words)}
    assert found["torch"].us_p50 is not None
    left = found["torch, compiled"]
    assert left.status == rows.NOT_RUN and "--no-compile" in left.reason


def test_no_time_left_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--all", "--smoke", "--family", "tree", "--limit", "0", "--device", "cpu"]
    assert run.main([*words, "--out", str(tmp_path), "--name", "found"]) == 1  # nothing is green
    found = rows.read(tmp_path / "found.csv")
    shown = capsys.readouterr().out
    assert "gate: nothing of ours was measured" in shown and "found.csv" in shown
    assert {row.status for row in found} <= {rows.NOT_RUN, rows.UNAVAILABLE}
    assert all("the run had its 0 s" in row.reason for row in found if row.status == rows.NOT_RUN)
    # Which backends an op has is known without running it.
    assert {"native", "reference"} <= {row.backend for row in found if row.op == "build_tree"}


def test_a_list_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--all", "--device", "cpu", "--list", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert all(op in shown for op in registry.kinds())
    assert not list(tmp_path.iterdir())


def test_what_is_compiled_at_first_use_is_called_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warm, "_pool", lambda processes: ThreadPoolExecutor(1))
    assert warm.main(["ours", "--device", "cpu", "--family", "cache", "--family", "window"]) == 0
    shown = capsys.readouterr().out
    assert "0 failed" in shown and not shown.startswith("0 calls")
    late = Way("late", False, lambda arguments: _late, compiles=True)
    cheap = Way("cheap", False, lambda arguments: pytest.fail("compiles nothing"))
    found = [late, Way("good", False, lambda arguments: lambda: None, compiles=True), cheap]
    monkeypatch.setattr(registry, "cases", lambda *_: [Doubling()])
    monkeypatch.setattr(Doubling, "peers", lambda *_: found)
    assert warm.main(["peers", "--device", "cpu"]) == 0  # another is compiled
    shown = " ".join(capsys.readouterr().out.split())
    assert "late: RuntimeError: too late" in shown and "1 calls in 0 s, 1 failed" in shown
    del found[1]
    assert warm.main(["peers", "--device", "cpu"]) == 1
    found[:] = [Way("elsewhere", False, lambda arguments: _elsewhere, compiles=True)]
    assert warm.main(["peers", "--device", "cpu"]) == 0  # its row will say so
    assert capsys.readouterr().out.splitlines()[-1] == "0 calls in 0 s, 0 failed"


def _late() -> None:
    raise RuntimeError("too late")


def _elsewhere() -> None:
    raise NotImplementedError("another machine")


WRONG = [
    (["--all", "--op", "build_tree"], "not allowed with argument"),
    ([], "one of the arguments --all --op is required"),
    (["--op", "build_forest"], "--op must be one of"),
    (["--all", "--family", "birds"], "--family must be of tree, accept"),
    (["--op", "build_tree", "--shape", "leaves=3"], "--shape of build_tree takes B, T, got leaves"),
    (["--op", "build_tree", "--shape", "T"], "--shape must be word=value pairs"),
    (["--op", "build_tree", "--shape", "T=many"], "--shape T must be a whole number from 1 on"),
    (["--op", "build_tree", "--shape", "T=-3"], "--shape T must be a whole number from 1 on"),
    (["--op", "build_tree", "--shape", "T=3,T=4"], "each word once"),
    (["--op", "tree_attention", "--shape", "model=bird"], "model must be one of qwen2.5-vl-3b"),
    (["--op", "tree_attention", "--shape", "heads=3,kv_heads=2"], "heads a multiple of kv_heads"),
    (
        ["--op", "anchored_window_attention", "--shape", "layout=birds"],
        "--shape layout must be one of scattered, clustered, got 'birds'",
    ),
    (["--op", "commit_tree_", "--shape", "form=birds"], "must be one of bound, pages-16, lens-per"),
    (["--op", "tree_attention", "--shape", "key_bias=no"], "key_bias must be one of True, got"),
    (["--op", "build_tree", "--peers", "birds"], "--peers must be all, none or of torch"),
    (["--op", "build_tree", "--backends", "none"], "--backends must be all or of native"),
    (["--op", "build_tree", "--peers", " ;"], "--peers must be all, none or of torch"),
    (["--op", "build_tree", "--limit", "-1"], "must be seconds from 0 on, got '-1'"),
    (["--op", "build_tree", "--seconds", "soon"], "must be seconds from 0 on, got 'soon'"),
    (
        ["--op", "tree_attention", "--shape", "form=float8,anchors=9"],
        "no tree_attention has all of form, anchors; they have model, prefix, T, B or model,",
    ),
    (["--op", "build_tree", "--out", "bench/results"], "bench-cpu.csv is committed"),
    (["--op", "topk_logprobs", "--dtype", "int3"], "--dtype must be one of float32"),
    (["--op", "build_tree", "--dtype", "float32"], "--dtype: build_tree takes int32 alone"),
    (["--op", "build_tree", "--family", "tree"], "--family goes with --all"),
    (["--all", "--shape", "T=3"], "--shape and --dtype go with --op"),
    (["--all", "--dtype", "float32"], "--shape and --dtype go with --op"),
    (["--op", "build_tree", "--out", "/proc/nope"], "--out: [Errno 2] No such file"),
    (["--op", "build_tree", "--out", "bench/results", "--name", "demo"], "demo.json is committed"),
    (
        ["--op", "tree_attention", "--shape", "prefix=99999999999"],
        "--shape: tree_attention model=qwen2.5-vl-7b prefix=99999999999 T=30 B=1 would read",
    ),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_words_are_named(
    words: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main([*words, "--device", "cpu"])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
