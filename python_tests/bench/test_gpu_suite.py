"""`bench/gpu_suite.sh`: its frame over planted parts, and the real parts that are cheap here."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from suite_cases import (  # noqa: F401, E501
    MOST_FILES,
    MOST_SECONDS,
    ROOT,
    SUITE,
    limits,
    plant,
    run,
    run_planted,
    words_of,
)

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="no coreutils' timeout")


def test_every_part_fits_a_command_of_ten_minutes() -> None:
    assert max(limits().values()) <= 540
    quick = limits("quick")
    assert sum(quick.values()) - quick["compile"] <= MOST_SECONDS  # it runs beside gpu-tests
    assert quick["compile"] <= quick["gpu-tests"]
    assert all(quick[part] <= limits()[part] for part in quick)
    assert {f"{part}.sh" for part in limits()} <= {
        path.name for path in (ROOT / "bench/suite").iterdir()
    }


@pytest.mark.slow
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


def test_its_help_is_its_head(planted: Path) -> None:
    for word in ("--help", "-h"):
        done = run_planted(planted, word)
        assert done.returncode == 0 and not words_of(done.stdout)
        assert done.stdout.startswith("Everything a machine with a GPU can tell")
        assert "--within SECONDS" in done.stdout and "set -u" not in done.stdout
        assert not (planted / "out").exists()


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
