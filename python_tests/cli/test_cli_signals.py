"""`sparrow` ended by a signal: the status tells, and nothing half-written stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sparrow_kernels.cli import environment, main

ROOT = Path(__file__).resolve().parents[2]
SLOW_CLIP = """
import sys, time
import sparrow_kernels.embedded.clips as clips
from sparrow_kernels.cli import main
def write_mp4(path, frames):
    path.write_bytes(b'half a clip')
    print('writing', file=sys.stderr, flush=True)
    time.sleep(60)
clips.write_mp4 = write_mp4
sys.exit(main())
"""


def heeded() -> None:
    """A job in the background, as these tests may be, inherits signals that are ignored."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def ended_by(number: int, out: Path, *before: str) -> tuple[int, str]:
    """Status and last words of a `sparrow clip` that gets a signal while it writes."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", SLOW_CLIP, "clip", str(out), "--visual-tokens", "60"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeded,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "writing\n"
    assert len(os.listdir(out.parent)) == 2  # hidden, until they are whole
    process.send_signal(number)
    if before:  # which ignores the signal
        process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize(
    "number, before, status, happened",
    [
        (signal.SIGTERM, (), 143, "terminated"),
        (signal.SIGHUP, (), 129, "terminated"),
        (signal.SIGHUP, ("nohup",), 143, "terminated"),
        (signal.SIGINT, (), 130, "interrupted"),
    ],
)
def test_half_a_clip_is_removed(
    number: int, before: tuple[str, ...], status: int, happened: str, tmp_path: Path
) -> None:
    pytest.importorskip("numpy")
    said = f"sparrow: error: {happened} before it was done\n"
    assert ended_by(number, tmp_path / "a.mp4", *before) == (status, said)
    assert os.listdir(tmp_path) == []


def test_handlers_are_as_before_afterwards(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def own(*_: object) -> None: ...

    during = []
    numbers = (signal.SIGTERM, signal.SIGHUP)
    monkeypatch.setattr(
        environment, "describe", lambda: during.extend(map(signal.getsignal, numbers)) or {}
    )
    before = signal.signal(signal.SIGHUP, own)
    try:
        assert main(["env", "--json"]) == 0
        assert signal.getsignal(signal.SIGHUP) is own
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert callable(during[0]) and during[0] is not own and during[1] is own


def test_outside_of_the_main_thread_a_command_runs_without_handlers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(main(["--version"])))
    thread.start()
    thread.join()
    assert statuses == [0]
