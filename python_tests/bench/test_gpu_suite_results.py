"""`bench/gpu_suite.sh`: what comes of its parts, and of a machine that lacks something."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from bench_cases import row
from suite_cases import ROOT, plant, run, run_planted, words_of

from bench import rows, summary


def test_rows_are_summed_up_at_the_end(planted: Path) -> None:
    plant(planted, "bench-draft", 'echo rows >"$OUT/bench-draft.csv"')
    done = run_planted(planted, "bench-trees", "bench-draft")
    csv = planted / "out/bench-draft.csv"
    tail = [f"-m bench.summary {csv}", "", f"-m bench.goals {csv}"]
    assert done.stdout.splitlines()[-3:] == tail
    assert (planted / "out/summary.txt").read_text().splitlines()[-3:] == tail


def test_what_an_earlier_run_measured_is_kept(planted: Path) -> None:
    """And is not taken for this run's, where a part ends before it measures."""
    out = planted / "out"
    out.mkdir()
    for number in (1, 2):
        for name in ("bench-trees.csv", "step.json"):
            (out / name).write_text(f"of run {number}")
        done = run_planted(planted, "bench-trees", "bench-step")
        assert "-m bench.summary" not in done.stdout
        assert not (out / "bench-trees.csv").exists() and not (out / "step.json").exists()
    kept = {path.name: path.read_text() for path in (out / "earlier").iterdir()}
    names = {f"{name}-{n}{end}": n for name, end in KEPT for n in (1, 2)}
    assert kept == {name: f"of run {number}" for name, number in names.items()}


KEPT = (("bench-trees", ".csv"), ("step", ".json"))


@pytest.mark.parametrize("with_git", [True, False])
def test_no_file_where_results_are_committed_is_touched(planted: Path, with_git: bool) -> None:
    committed = planted / "bench/results"
    committed.mkdir()
    elsewhere = planted / "kept/deep"
    elsewhere.mkdir(parents=True)
    (elsewhere / "bench-trees.csv").write_text("measured")
    (committed / "bench-trees.csv").write_text("measured")
    folders = [committed, planted / "bench/../bench/results"]
    if with_git:
        folders += [elsewhere, elsewhere.parent]
        for words in (["init", "-q"], ["add", "bench/results", "kept"]):
            subprocess.run(["git", *words], cwd=planted, check=True)
    for folder in folders:
        done = run(planted, folder, "bench-trees", python=str(planted / "python"))
        assert done.returncode == 2 and "committed" in done.stderr, folder
    assert [path.name for path in committed.iterdir()] == ["bench-trees.csv"]
    done = run(planted, "", "bench-trees", python=str(planted / "python"))
    assert done.returncode == 0
    assert {path.name for path in (committed / "local").iterdir()} == {"suite.log", "summary.txt"}
    for folder in (committed, elsewhere):
        assert (folder / "bench-trees.csv").read_text() == "measured"


def test_peers_wheels_are_found_and_not_installed(planted: Path) -> None:
    wheels = planted / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "a_peer-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a_peer/__init__.py", "word = 'here'")
    plant(planted, "peers", f"{sys.executable} -c 'import a_peer; print(a_peer.word)'")
    done = run_planted(planted, "peers", PEER_WHEELS="wheels")
    assert words_of(done.stdout) == {"peers": "passed"} and "here" in done.stdout
    again = run_planted(planted, "peers")
    assert words_of(again.stdout) == {"peers": "FAILED (1)"}


def test_what_the_peers_compile_is_measured_only_once_it_is_compiled(planted: Path) -> None:
    """With a GPU that is only said to be there."""
    for part in ("peers", "measure", "bench-draft"):
        shutil.copy(ROOT / f"bench/suite/{part}.sh", planted / f"bench/suite/{part}.sh")
    python = planted / "python"
    python.write_text(python.read_text().replace('echo "no GPU in this test"', "echo"))
    run_planted(planted, "bench-draft")
    first = (planted / "out/suite.log").read_text()
    assert "bench.run --all" in first and first.rstrip().split("bench.run")[1].count("--no-compile")
    run_planted(planted, "peers", "bench-draft")
    log = (planted / "out/suite.log").read_text()
    assert "bench.warm peers" in log and "--no-compile" not in log.split("bench.run")[1]


def test_results_that_cannot_be_written_go_elsewhere(planted: Path) -> None:
    (planted / "file").touch()
    done = run(planted, planted / "file/out", "build", python=str(planted / "python"))
    assert done.returncode == 0
    assert done.stdout.startswith(f"cannot write to {planted / 'file/out'}, ")


def test_a_python_without_torch_is_a_reason(planted: Path) -> None:
    stand_in = planted / "python"
    stand_in.write_text(stand_in.read_text().replace('echo "no GPU in this test"', "exit 1"))
    plant(planted, "build", 'echo "$NO_GPU"')
    assert "cannot import torch" in run_planted(planted, "build").stdout


def test_the_summary_reads_several_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        "one": [row(us=10.0), row(backend="torch", ours=False, us=25.0)],
        "two": [row(op="accept_tree", backend="torch", us=None, status=rows.NOT_RUN, reason="why")],
        "bad": [row(op="accept_tree", us=None, status=rows.REFUSED, reason="wrong result")],
    }
    for name, of_file in found.items():
        writer = rows.Writer(tmp_path / name, with_json=False)
        writer.write(of_file)
        writer.close()
    files = [str(tmp_path / f"{name}.csv") for name in found]
    assert summary.main(files[:2]) == 0
    said = capsys.readouterr().out
    assert "3 rows, a device" in said and "gate: green" in said
    assert "2.50 (2.38-2.63) x torch" in said and "not run: torch x1: why" in said
    assert summary.main(files) == 1
    assert "wrong result" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == sorted(map(Path, files))
    with pytest.raises(SystemExit, match="2"):
        summary.main([str(tmp_path / "none.csv")])
