"""`bench/gpu_suite.sh`: its frame over planted parts, and the real parts that are cheap here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from bench_cases import row

from bench import rows, summary

ROOT = Path(__file__).resolve().parents[1]
SUITE = Path("bench/gpu_suite.sh")
MOST_FILES = 8
MOST_SECONDS = 600

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="no coreutils' timeout")


def run(
    root: Path, out: Path, *words: str, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PEER_WHEELS"}
    return subprocess.run(
        ["bash", root / SUITE, *words],
        env=clean | {"PYTHON": python, "OUT": str(out), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A checkout of the frame alone, all of whose parts pass, and a Python that is quick."""
    (tmp_path / "bench/suite").mkdir(parents=True)
    shutil.copy(ROOT / SUITE, tmp_path / SUITE)
    for part in limits():
        plant(tmp_path, part, f"echo; echo all of {part} is well; echo")
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f"""#!/bin/sh
case "$*" in
  -) echo "no GPU in this test" ;;
  "-m bench."*) echo "$*" ;;
  *) exec {sys.executable} -S "$@" ;;
esac
"""
    )
    stand_in.chmod(0o755)
    return tmp_path


def plant(root: Path, part: str, script: str) -> None:
    (root / f"bench/suite/{part}.sh").write_text(script)


def run_planted(root: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(root, root / "out", *words, python=str(root / "python"), **environment)


def limits(of: str = "") -> dict[str, int]:
    """Each part's limit, or those of the parts of `--quick`."""
    done = subprocess.run(
        ["bash", ROOT / SUITE, "--list"], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    column = 2 if of == "quick" else 1
    return {line[0]: int(line[column]) for line in lines if line[column] != "-"}


def words_of(summary: str) -> dict[str, str]:
    """What the summary says of each part."""
    lines = [line for line in summary.splitlines() if line.split(" ")[0] in limits()]
    return {line[:16].strip(): line[17:28].strip() for line in lines}


def test_every_part_fits_a_command_of_ten_minutes() -> None:
    assert max(limits().values()) <= 540
    quick = limits("quick")
    assert sum(quick.values()) - quick["compile"] <= MOST_SECONDS  # it runs beside gpu-tests
    assert quick["compile"] <= quick["gpu-tests"]
    assert all(quick[part] <= limits()[part] for part in quick)
    assert {f"{part}.sh" for part in limits()} <= {
        path.name for path in (ROOT / "bench/suite").iterdir()
    }


def test_everything_here_runs_to_its_end(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this is about a machine without a GPU")
    parts = ("gpu-tests", "sanitizer", "compile", "peers", "bench-draft")
    done = run(ROOT, tmp_path, *parts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert words_of(done.stdout) == dict.fromkeys(parts, "not here")
    assert done.stdout.count("no CUDA GPU") >= len(parts)
    summary = (tmp_path / "summary.txt").read_text()
    assert summary.strip() == done.stdout.strip()
    assert "gate: green" in (tmp_path / "suite.log").read_text()
    assert (tmp_path / "bench-draft-smoke.csv").is_file()
    assert not list(tmp_path.glob("*.json"))
    assert len(list(tmp_path.iterdir())) <= MOST_FILES


def test_parts_run_in_the_order_asked_for(planted: Path) -> None:
    done = run_planted(planted, "peers", "build")
    assert done.returncode == 0
    assert list(words_of(done.stdout).items()) == [("peers", "passed"), ("build", "passed")]
    assert "all of peers is well" in done.stdout


@pytest.mark.parametrize("words", [(), ("--quick",)])
def test_without_names_all_parts_run(planted: Path, words: tuple[str, ...]) -> None:
    done = run_planted(planted, *words)
    assert list(words_of(done.stdout)) == list(limits("quick" if words else ""))


@pytest.mark.parametrize(
    "words", [("nonsense",), ("build", "nonsense"), ("--within", "soon"), ("build=soon",)]
)
def test_what_it_does_not_know_is_an_error(planted: Path, words: tuple[str, ...]) -> None:
    done = run_planted(planted, *words)
    assert done.returncode == 2
    assert words[-1] in done.stderr
    assert not words_of(done.stdout)


def test_a_part_that_fails_makes_it_fail_and_the_rest_runs(planted: Path) -> None:
    plant(planted, "gpu-tests", "echo a test failed; exit 3")
    plant(planted, "sanitizer", "echo no such tool; exit 77")
    done = run_planted(planted)
    assert done.returncode == 1
    assert words_of(done.stdout) == dict.fromkeys(limits(), "passed") | {
        "gpu-tests": "FAILED (3)",
        "sanitizer": "not here",
    }
    assert done.stdout.count("a test failed") == 2  # its log's end, and its line of the table


def test_a_part_that_takes_too_long_is_cut(planted: Path) -> None:
    short = (planted / SUITE).read_text().replace("[build]=300", "[build]=1")
    (planted / SUITE).write_text(short.replace("least=20", "least=1"))
    plant(planted, "build", "echo began; sleep 30; echo ended")
    done = run_planted(planted, "build", "peers")
    assert done.returncode == 1
    assert words_of(done.stdout) == {"build": "TIMED OUT", "peers": "passed"}
    assert "ended" not in (planted / "out/suite.log").read_text()


def test_no_part_begins_after_the_time_of_all(planted: Path) -> None:
    plant(planted, "build", 'echo "at most $PART_SECONDS"')
    done = run_planted(planted, "--within", "60", "build")
    assert done.returncode == 0
    assert 40 <= int(done.stdout.split("at most ")[1].split()[0]) <= 45
    given = run_planted(planted, "--within", "60", "build=33")
    assert given.stdout.endswith("at most 33\n")
    late = run_planted(planted, "--within", "30", "build")
    assert late.returncode == 1
    assert words_of(late.stdout) == {"build": "NO TIME"}


def test_what_measures_nothing_runs_side_by_side(planted: Path) -> None:
    """Each waits for the other, which a part that measures must not have to."""
    wait = "until [ -e $OUT/{0} ]; do sleep 0.05; done; rm $OUT/{0}"
    plant(planted, "gpu-tests", f"touch $OUT/a; {wait.format('b')}; echo said by the tests")
    plant(planted, "sanitizer", f"touch $OUT/b; {wait.format('a')}; echo said by the tools")
    plant(planted, "bench-draft", "ls $OUT")
    done = run_planted(planted, "gpu-tests=20", "sanitizer=20", "bench-draft")
    assert set(words_of(done.stdout).values()) == {"passed"}, done.stdout
    log = (planted / "out/suite.log").read_text()
    first, second = log.index("== gpu-tests"), log.index("== sanitizer")
    assert first < log.index("said by the tests") < second < log.index("said by the tools")
    beside = log[log.index("== bench-draft") :].split()[6:]
    assert beside == ["bench-draft.log", "suite.log", "summary.txt"]
    assert not list((planted / "out").glob("gpu-tests*"))


def test_time_is_shared_with_the_parts_to_come(planted: Path) -> None:
    for part in limits():
        plant(planted, part, 'echo "at most $PART_SECONDS"')
    done = run_planted(planted, "--within", "270")
    assert set(words_of(done.stdout).values()) == {"passed"}
    lines = (line.split() for line in done.stdout.splitlines())
    seconds = {line[0]: int(line[-1]) for line in lines if line and line[0] in limits()}
    checks = [seconds[part] for part in ("gpu-tests", "sanitizer", "compile", "peers")]
    measuring = [seconds[part] for part in limits() if part.startswith("bench-")]
    assert len(set(checks)) == 1 and 50 <= checks[0] <= 150
    assert seconds["build"] >= 240 and min(measuring) >= 20


def test_a_part_that_is_cut_says_what_it_had_and_leaves_nothing_running(planted: Path) -> None:
    (planted / SUITE).write_text(
        (planted / SUITE).read_text().replace("least=20", "least=1").replace("after=10", "after=2")
    )
    plant(
        planted,
        "gpu-tests",
        # In a group of its own, as `timeout` puts what it runs.
        f"setsid -w true; timeout 60 sleep 59 & echo $! >$OUT/left\n"
        f"exec {sys.executable} -c 'import time\n"
        'try: time.sleep(30)\nexcept KeyboardInterrupt: print("one failed so far")\'',
    )
    done = run_planted(planted, "gpu-tests=1")
    assert words_of(done.stdout) == {"gpu-tests": "TIMED OUT"}
    assert "one failed so far" in (planted / "out/suite.log").read_text()
    left = (planted / "out/left").read_text().strip()
    state = Path(f"/proc/{left}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_library_made_from_these_sources_is_not_built_again(planted: Path) -> None:
    shutil.copy(ROOT / "bench/suite/build.sh", planted / "bench/suite/build.sh")
    for name in ("csrc/a.cu", "CMakeLists.txt", "setup.py"):
        (planted / name).parent.mkdir(exist_ok=True)
        (planted / name).write_text("a source\n")
    (planted / "sparrow_kernels").mkdir()
    (planted / "build").mkdir()
    python = planted / "python"
    library = "sparrow_kernels/libsparrow_ops.so"
    building = f'  "setup.py "*) echo a library >{library}; echo built ;;\n'
    python.write_text(python.read_text().replace('  "-m bench', building + '  "-m bench', 1))

    def says() -> str:
        done = run_planted(planted, "build")
        assert words_of(done.stdout) == {"build": "passed"}
        return (planted / "out/suite.log").read_text()

    nothing = "made from these sources: nothing to build"
    assert "built" in says()
    assert nothing in says()
    (planted / "csrc/a.cu").write_text("another\n")
    assert nothing not in says()
    assert nothing in says()
    (planted / library).write_text("one from elsewhere")
    assert nothing not in says()


def test_rows_are_summed_up_at_the_end(planted: Path) -> None:
    stale = planted / "out/bench-trees.csv"
    stale.parent.mkdir()
    stale.write_text("of an earlier run")
    plant(planted, "bench-draft", 'echo rows >"$OUT/bench-draft.csv"')
    done = run_planted(planted, "bench-trees", "bench-draft")
    assert not stale.exists()
    csv = planted / "out/bench-draft.csv"
    tail = [f"-m bench.summary {csv}", "", f"-m bench.goals {csv}"]
    assert done.stdout.splitlines()[-3:] == tail
    assert (planted / "out/summary.txt").read_text().splitlines()[-3:] == tail


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
    assert "2.50 x torch" in said and "not run: torch x1: why" in said
    assert summary.main(files) == 1
    assert "wrong result" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == sorted(map(Path, files))
    with pytest.raises(SystemExit, match="2"):
        summary.main([str(tmp_path / "none.csv")])
