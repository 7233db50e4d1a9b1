"""Runs that are killed, and runs that several processes share."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TextIO

import pytest
import torch
import training_run
from fork_server import SERVER, environment, forked, group
from safetensors.torch import load_file

SCRIPT = Path(training_run.__file__)


def losses(said: str) -> dict[int, float]:
    """By step; of a step that was made twice, the last."""
    found = re.findall(r"step (\d+) loss (\S+)", said)
    return {int(step): float(loss) for step, loss in found}


def shared(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """A run that two processes share."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [sys.executable, *launcher, str(SCRIPT), str(folder), str(out)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)


def started(folder: Path, out: Path) -> tuple[ForkServerProcess, TextIO]:
    """A run of one process, and what it says."""
    said, told = SERVER.Pipe(duplex=False)
    process = forked(training_run.forked, folder, out, told)
    told.close()
    hanging = threading.Timer(300, process.kill)
    hanging.daemon = True
    hanging.start()
    return process, os.fdopen(os.dup(said.fileno()))


def run(folder: Path, out: Path) -> dict[int, float]:
    process, lines = started(folder, out)
    said = lines.read()
    process.join()
    assert process.exitcode == 0
    return losses(said)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, float]]:
    """The folder of the data, in which `whole` is a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("data")
    training_run.dialogues(folder)
    return folder, run(folder, folder / "whole")


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(
    whole: tuple[Path, dict[int, float]], tmp_path: Path
) -> None:
    folder, expected = whole
    out = tmp_path / "killed"
    said = ""
    # In the first stage, as it writes a checkpoint or not, between the stages, near the end.
    for last in (0, 4, 6, 17):
        process, lines = started(folder, out)
        for line in lines:
            said += line
            if line.startswith(f"step {last} "):
                break
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    found = {**losses(said), **run(folder, out)}
    assert found == expected
    kept, ours = (load_file(each / "model.safetensors") for each in (folder / "whole", out))
    for name, value in kept.items():
        assert torch.equal(value, ours[name]), name
    for name in ("training.csv",):
        assert (out / name).read_text() == (folder / "whole" / name).read_text()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_take_the_steps_of_one(
    whole: tuple[Path, dict[int, float]], tmp_path: Path
) -> None:
    folder, expected = whole
    done = shared(folder, tmp_path / "shared")
    assert done.returncode == 0, done.stderr
    found = losses(done.stdout)
    assert found.keys() == expected.keys() and len(found) == training_run.STEPS
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, abs=1e-5), step
    kept = load_file(folder / "whole" / "model.safetensors")
    ours = load_file(tmp_path / "shared" / "model.safetensors")
    for name, value in kept.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_what_one_process_cannot_use_ends_both_and_keeps_what_was_learnt(
    whole: tuple[Path, dict[int, float]], tmp_path: Path
) -> None:
    """The first stage reads texts alone; a clip of the second cannot be read."""
    folder, _ = whole
    data = (folder / "data.jsonl").read_text().splitlines()
    (tmp_path / "clip.mp4").write_bytes((folder / "clip.mp4").read_bytes())
    clips = [n for n, line in enumerate(data) if "clip.mp4" in line]
    data[clips[-1]] = data[clips[-1]].replace("clip.mp4", "other.mp4")
    (tmp_path / "data.jsonl").write_text("\n".join(data) + "\n")
    (tmp_path / "other.mp4").write_bytes(b"no video")
    out, said = tmp_path / "out", [tmp_path / f"said-{rank}" for rank in range(2)]
    each = zip(group(2), said, strict=True)
    processes = [forked(training_run.ranked, tmp_path, out, *given) for given in each]
    for process in processes:  # by itself: nobody ends one because the other has ended
        process.join(timeout=300)
        assert process.exitcode == 1
    errors = "".join(file.read_text() for file in said)
    assert f"data.jsonl:{clips[-1] + 1}: " in errors and "other.mp4" in errors
    kept = torch.load(out / "training.pt", weights_only=True)["progress"]["step"]
    assert kept == 1 + max(losses(said[0].read_text()))
