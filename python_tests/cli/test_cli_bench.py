"""`sparrow bench`: it hands everything over to the benchmarks of a checkout, and waits for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sparrow_kernels.cli import bench, main

PLANTED = """
import os, pathlib, signal, sys, time
if "--killed" in sys.argv:
    os.kill(os.getpid(), 9)
if "--slow" in sys.argv:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print("begun", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(1)  # as a call that has to end first
pathlib.Path(sys.argv[2]).write_text(" ".join(sys.argv))
sys.exit({status})
"""
INTERRUPTED = "from sparrow_kernels.cli import bench, main; bench.__file__ = {module!r}; main()"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command seems to lie: in a checkout of `bench/run.py` alone. One stands elsewhere,
    in a folder that has another."""
    for folder, status in (("checkout", 7), ("elsewhere", 9)):
        (tmp_path / folder / "bench").mkdir(parents=True)
        (tmp_path / folder / "bench" / "__init__.py").touch()
        (tmp_path / folder / "bench" / "run.py").write_text(PLANTED.format(status=status))
    lies = tmp_path / "checkout" / "sparrow_kernels" / "cli" / "bench.py"
    monkeypatch.setattr(bench, "__file__", str(lies))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return lies


def test_outside_a_checkout_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "site" / "cli" / "bench.py"))
    assert main(["bench", "--any", "thing"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("sparrow: error: sparrow bench needs a checkout")
    assert main(["bench", "--help"]) == 0
    assert "python -m bench.run --help in a checkout" in capsys.readouterr().out


def test_every_word_and_the_status_are_handed_over(module: Path) -> None:
    """A path among the words is of the folder one stands in."""
    assert main(["bench", "--out", "here", "--quick"]) == 7
    assert Path("here").read_text().endswith("run.py --out here --quick")
    assert main(["bench", "--killed"]) == 137


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "send", "how"),
    [(signal.SIGINT, os.killpg, "interrupted"), (signal.SIGTERM, os.kill, "terminated")],
)
def test_a_signal_waits_for_what_is_written_down(
    number: int, send: Callable[[int, int], None], how: str, module: Path
) -> None:
    """A terminal sends Ctrl-C to both processes, others send theirs to the one they know."""
    words = [sys.executable, "-c", INTERRUPTED.format(module=str(module)), "bench", "--out", "here"]
    process = subprocess.Popen(
        [*words, "--slow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    send(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert f"sparrow: error: {how} before it was done" in said
    assert Path("here").is_file()


@pytest.mark.slow
def test_its_help_has_every_option(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    shown = capfd.readouterr().out
    assert all(option in shown for option in ("--op", "--shape", "--peers", "--out"))
