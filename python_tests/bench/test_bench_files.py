"""What is done with result files: read, compared, matched side by side, plotted."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_cases import row

from bench import compare, earlier, plot, report, rows
from bench.matches import find, matches
from bench.plots import style
from bench.plots.style import quantity, short_case
from bench.rows import Row


def write(path: Path, *found: Row) -> Path:
    writer = rows.Writer(path)
    writer.write(found)
    writer.close()
    return path.with_name(path.name + ".csv")


REFUSED: dict[str, Any] = {"status": rows.REFUSED, "reason": "wrong result: 1, 2", "inputs": "",
                           "us": None, "percent_of_floor": None, "stream_us": None}  # fmt: skip


class TestRows:
    def test_a_file_gives_back_what_was_written(self, tmp_path: Path) -> None:
        written = [
            row(issued_flops=12),
            row(backend="torch, compiled", ours=False, case='T=8 B=1 layout="a, b"', dirty=True),
            row(backend="reference", **REFUSED),
        ]
        assert rows.read(write(tmp_path / "found", *written)) == written

    def test_a_file_from_before_a_column_was_added_is_read(self, tmp_path: Path) -> None:
        path = write(tmp_path / "found", row(us_eager=3.0, sm_mhz=1980.0, others_percent=4.0))
        place = rows.COLUMNS.index("us_eager")
        with path.open(newline="") as file:
            lines = [line[:place] + line[place + 3 :] for line in csv.reader(file)]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(lines)
        assert rows.read(path) == [row()]

    def test_what_is_not_to_be_believed(self) -> None:
        assert row().doubt == ""
        assert row(percent_of_floor=100.0, others_percent=10.0, us_p20=9.0, us_p80=18.0).doubt == ""
        assert row(percent_of_floor=103.2).doubt == "103 % of its floor"
        assert row(others_percent=34.6).doubt == "others took 35 % of the processors"
        assert row(us_p20=9.0, us_p80=18.1).doubt == "between 9 and 18.1 µs"

    def test_rows_are_there_before_the_run_ends(self, tmp_path: Path) -> None:
        writer = rows.Writer(tmp_path / "new" / "found")
        writer.write([row()])
        assert rows.read(tmp_path / "new" / "found.csv") == [row()]
        writer.close()

    def test_another_file_is_refused_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "other.csv"
        path.write_text("op,us\nbuild_tree,3\n")
        with pytest.raises(ValueError, match=r"other\.csv: not a result file"):
            rows.read(path)


class TestMatches:
    def test_our_best_stands_beside_the_peers(self) -> None:
        peers = [row(backend=name, ours=False, us=us) for name, us in (("b", 30.0), ("a", 5.0))]
        slow, refused = row(backend="reference", us=90.0), row(backend="torch", **REFUSED)
        (match,) = matches([slow, *peers, row(), refused])
        assert match.ours == row() and match.others == [slow]
        assert [peer.backend for peer in match.peers] == ["a", "b"]
        assert [match.ratio(peer) for peer in match.peers] == [0.5, 3.0]

    def test_dtypes_and_inputs_are_never_mixed(self) -> None:
        found = [row(), row(dtype="int64", us=1.0), row(inputs="cold", us=2.0)]
        assert [match.ours for match in matches(found)] == found
        assert matches([row(ours=False)]) == []

    def test_devices_are_never_mixed(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An integer case has the same name and dtype on a CPU and a GPU."""
        slow, fast = (
            [row(device=device, us=us), row(device=device, us=of_peer, ours=False, backend="torch")]
            for device, us, of_peer in (("a CPU", 100.0, 300.0), ("a GPU", 2.0, 4.0))
        )
        assert [match.ratio(match.peers[0]) for match in matches([*slow, *fast])] == [3.0, 2.0]
        report.print_summary([*slow, *fast])
        shown = capsys.readouterr().out
        assert "best ratio to a peer: 3.00 " in shown and "worst ratio to a peer: 2.00 " in shown
        assert report.best_of_ours([*slow, *fast]) == [slow[0], fast[0]]

    def test_one_row_by_its_key(self) -> None:
        assert find([row(), row(backend="torch")], row().key) == row()
        with pytest.raises(ValueError, match="0 rows are build_tree | T=64 B=1"):
            find([], row().key)


class TestCompare:
    @pytest.mark.parametrize(
        ("us", "spread", "counts"),
        [
            (10.4, 0.05, False),  # beyond the spread, below 5 %
            (10.6, 0.05, True),
            (10.6, 0.5, False),  # within three times the spread
            (9.0, 0.05, True),
            (12.0, 0.6, True),
        ],
    )
    def test_noise_is_no_change(self, us: float, spread: float, counts: bool) -> None:
        after = row(us=us, us_p20=us - spread / 2, us_p80=us + spread / 2)
        before = row(us_p20=9.99, us_p80=10.01)
        for one, other in ((before, after), (after, before)):
            comparison = compare.compared([one], [other])
            # 5 % is of what was before; none of these is near enough to that for it to matter
            assert bool(comparison.changes) == counts
            assert comparison.unchanged == (not counts)

    def test_what_became_slowest_comes_first(self) -> None:
        names = "abc"
        before = [row(backend=name) for name in names]
        times = {"a": 5.0, "b": 30.0, "c": 20.0}
        after = [row(backend=name, us=times[name]) for name in names]
        found = compare.compared(before, after)
        assert [change.after.backend for change in found.changes] == ["b", "c", "a"]
        assert [round(change.percent) for change in found.changes] == [200, 100, -50]
        assert [change.after.backend for change in found.slower(150)] == ["b"]

    def test_a_row_refused_now_is_a_failure(self, tmp_path: Path) -> None:
        before, after = write(tmp_path / "a", row()), write(tmp_path / "b", row(**REFUSED))
        (lost,) = compare.compared(rows.read(before), rows.read(after)).failures
        assert lost.after.reason == "wrong result: 1, 2"
        assert compare.main([str(before), str(after)]) == 1
        assert compare.main([str(after), str(before)]) == 0  # has a time now

    def test_a_peer_refused_now_is_told_but_no_failure(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = write(tmp_path / "a", row(ours=False))
        after = write(tmp_path / "b", row(ours=False, **REFUSED))
        assert compare.main([str(before), str(after)]) == 0
        assert "no time any more: build_tree | T=64 B=1" in capsys.readouterr().out

    def test_the_limit_is_asked_of_ours_alone(self, tmp_path: Path) -> None:
        def files(ours: bool, us: float) -> list[str]:
            another = row(backend="reference")
            pair = (
                write(tmp_path / "a", another, row(ours=ours)),
                write(tmp_path / "b", another, row(ours=ours, us=us)),
            )
            return [str(path) for path in pair]

        assert compare.main([*files(True, 13.0), "--fail-slower", "20"]) == 1
        assert compare.main([*files(True, 13.0), "--fail-slower", "40"]) == 0
        assert compare.main([*files(False, 13.0), "--fail-slower", "20"]) == 0
        assert compare.main(files(True, 13.0)) == 0

    def test_a_limit_that_nothing_was_held_to_is_not_kept(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = write(tmp_path / "a", row(), row(ours=False, backend="torch"))
        others = write(tmp_path / "b", row(case="T=9 B=1"), row(ours=False, backend="torch"))
        assert compare.main([str(before), str(others)]) == 0
        assert compare.main([str(before), str(others), "--fail-slower", "5"]) == 1
        assert "FAILED: nothing of ours has a time in both files" in capsys.readouterr().out
        assert compare.main([str(before), str(before), "--fail-slower", "5"]) == 0
        for percent in ("-5", "much", "nan"):
            with pytest.raises(SystemExit):
                compare.main([str(before), str(before), f"--fail-slower={percent}"])
            assert "must be a percentage from 0 on" in capsys.readouterr().err

    def test_what_is_in_one_file_only(self) -> None:
        found = compare.compared([row(), row(case="T=8 B=1")], [row(), row(case="T=9 B=1")])
        assert [each.case for each in found.only_before] == ["T=8 B=1"]
        assert [each.case for each in found.only_after] == ["T=9 B=1"]

    def test_another_machine_or_case_is_warned_of(self) -> None:
        other = row(device="another", torch="9.0", bytes=7, dirty=True)
        told = "\n".join(compare.compared([row()], [other]).warnings)
        assert "device differs: a device / another" in told
        assert "torch differs" in told and "bytes differs" in told and "after: measured" in told
        assert compare.compared([row()], [row()]).warnings == []

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit):
            compare.main([str(tmp_path / "none.csv"), str(tmp_path / "none.csv")])


def lengths(word: str, op: str = "tree_attention") -> list[Row]:
    return [
        row(op=op, case=f"{word}={length} T=8 B=1", dtype="float32", flops=1000 * length,
            bytes=100 * length, backend=name, ours=name == "torch", us=us * length)
        for length in (500, 4000)
        for name, us in (("torch", 1.0), ("sdpa, math", 3.0), ("flex_attention", 0.5))
    ]  # fmt: skip


class TestPlots:
    @pytest.mark.slow
    def test_every_plot_in_both_themes_and_the_same_twice(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = [row(), row(ours=False, backend="torch", us=50.0), *lengths("visual")]
        found += [*lengths("prefix"), row(case="T=8 B=1", **REFUSED)]
        found += [row(op="merge_attention", case="T=8", bound="flops", flops=10**6)]
        names = ["roofline", "peers-tree", "peers-draft", "peers-attention"]
        names += ["length-visual", "length-prefix"]
        expected = {
            f"all-{name}-{theme}.{kind}"
            for name in names
            for theme in ("light", "dark")
            for kind in ("png", "svg")
        }
        once = plot.drawn(found, tmp_path / "once" / "all")
        assert {path.name for path in once} == expected
        monkeypatch.setattr(style, "THEMES", (style.DARK,))
        for again in plot.drawn(found, tmp_path / "again" / "all"):
            first = tmp_path / "once" / again.name
            assert first.read_bytes() == again.read_bytes()
            assert first.stat().st_size > 2_000

    def test_what_has_nothing_to_show_says_what_it_needs(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "found", row())
        assert plot.main([str(path), "--out", str(tmp_path / "plots")]) == 0
        shown = capsys.readouterr().out
        assert "no peers-tree: it needs a measured case of tree with a peer" in shown
        assert "no length-visual: it needs a shape measured at two values of visual=" in shown
        assert plot.main([str(path)]) == 0  # beside its file, where no committed plot lies
        assert (tmp_path / "plots/found-roofline-light.svg").is_file()
        with pytest.raises(SystemExit):
            plot.main([str(path), "--out", "/proc/nope"])
        assert plot.drawn([], tmp_path / "none") == []

    def test_one_plot_is_of_one_device(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "found", row(), row(device="another"))
        with pytest.raises(SystemExit):
            plot.main([str(path), "--out", str(tmp_path / "plots")])
        assert "must be of one device, got a device; another" in capsys.readouterr().err
        assert not (tmp_path / "plots").exists()

    def test_words_of_a_label(self) -> None:
        assert quantity(29.54e9, "B/s") == "29.5 GB/s" and quantity(0.05) == "0.05"
        shape = {"model": "embedded", "prefix": "25600", "T": "8", "B": "1"}
        assert short_case(shape, ("T",)) == "embedded, prefix 25,600"


def test_a_command_says_which_switches_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in rows.SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARROW_WGMMA", "1")
    made = rows.machine("python -m bench.run --name 'a b'", torch.device("cpu"))
    assert made.command == "SPARROW_WGMMA=1 python -m bench.run --name 'a b'"


def test_a_command_keeps_no_folder_of_the_machine() -> None:
    inside = rows.RESULTS / "bench-cpu.csv"
    command = f"python -m bench.run --out /home/someone/out --name 'a b' {shlex.quote(str(inside))}"
    expected = "python -m bench.run --out out --name 'a b' bench/results/bench-cpu.csv"
    assert rows.machine(command, torch.device("cpu")).command == expected


def test_without_git_what_lies_among_the_results_counts_as_committed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An archive of the sources has results, and no git that could say so."""
    monkeypatch.setattr(earlier, "git", lambda *words: "")
    with pytest.raises(ValueError, match="demo.json is committed"):
        earlier.refuse_committed(rows.RESULTS / "demo")
    earlier.refuse_committed(rows.RESULTS / "a-new-one")
    (tmp_path / "demo.json").touch()
    earlier.refuse_committed(tmp_path / "demo")
