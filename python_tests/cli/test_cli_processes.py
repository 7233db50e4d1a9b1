"""`sparrow` as a process: on streams that fail, interrupted at a terminal, without torchvision."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from generate_cases import plain_text, words, written  # noqa: E402
from sparrow_process import started  # noqa: E402

from sparrow_kernels.video_shim import install_for  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("processes"))


WITHOUT_TORCHVISION = """
import json, os, sys
sys.modules['torchvision'] = None
import sparrow_kernels.models
from sparrow_kernels.cli import main
for out, err, words in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        for number, name in ((1, out), (2, err)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
        sys.exit(main(words))
    # Said before the next child is forked, which would say it again.
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def without_torchvision(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr where there is none: of the pair, and of its like whose processor
    needs one. What takes seconds to import is so once."""
    needing = tmp_path_factory.mktemp("needing")
    shutil.copytree(folder, needing, dirs_exist_ok=True)
    settings = needing / "target" / "processor_config.json"
    settings.write_text(settings.read_text().replace("Qwen2VLVideo", "Qwen3VLVideo"))
    commands, said = [words(each, "--max-new-tokens", "7") for each in (folder, needing)], []
    for each in commands:
        files = [tmp_path_factory.mktemp("said") / name for name in ("out", "err")]
        said.append([*map(str, files), each])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCHVISION, json.dumps(said)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return [
        (int(status), Path(out).read_text(), Path(err).read_text())
        for status, (out, err, _) in zip(done.stdout.split(), said, strict=True)
    ]


@pytest.mark.slow
def test_without_torchvision_clips_are_prepared_all_the_same(
    folder: Path, without_torchvision: list[tuple[int, str, str]]
) -> None:
    status, out, err = without_torchvision[0]
    assert (status, out) == (0, plain_text(folder, 7) + "\n"), err


@pytest.mark.slow
def test_without_the_torchvision_that_a_processor_needs(
    without_torchvision: list[tuple[int, str, str]],
) -> None:
    status, out, err = without_torchvision[1]
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert "torchvision is needed here: torchvision 0." in err
    assert f"{install_for(torch.__version__)} is the one" in err


@pytest.mark.slow
def test_the_answer_arrives_where_stderr_is_closed(folder: Path) -> None:
    command = [sys.executable, "-m", "sparrow_kernels.cli", *words(folder, "--max-new-tokens", "7")]
    done = subprocess.run(
        ["bash", "-c", f"exec {shlex.join(command)} 2>&-"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == plain_text(folder, 7) + "\n"


def env_written_to(stdout: int) -> tuple[str, int | None]:
    """What it says on stderr, and its status; `stdout` is closed here."""
    says, told = os.pipe()
    process = started(["env"], [0, stdout, told])
    os.close(stdout)
    os.close(told)
    with open(says) as said:
        text = said.read()
    process.join(timeout=60)
    return text, process.exitcode


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    assert env_written_to(writes) == ("", 141)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_what_took_long_to_find_out_is_an_error() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    assert env_written_to(full) == ("sparrow: error: No space left on device: stdout\n", 1)


@pytest.mark.slow
def test_ctrl_c_in_mid_stream_ends_the_line_and_says_so(folder: Path) -> None:
    """On a real terminal: words come before the end, then one line of error and status 130."""
    leader, follower = pty.openpty()
    command = words(folder, "--max-new-tokens", "20000")
    # A small random model is done before a signal reaches it, unless its words take their time.
    slowly = (
        "import time; from sparrow_kernels.cli import terminal; put = terminal.WordStream.put;"
        " terminal.WordStream.put = lambda self, ids: (time.sleep(0.05), put(self, ids))[1]"
    )
    process = started(command, [follower] * 3, slowly)
    os.close(follower)
    shown, interrupted, began = b"", False, time.monotonic()
    while time.monotonic() - began < 300:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # Linux: the last follower is closed
            break
        shown += piece
        # Words follow the clearing of the full bar.
        words_so_far = shown.rpartition(b"\x1b[K")[2] if b"4/4" in shown else b"prefill"
        if not interrupted and len(words_so_far) > 20 and b"prefill" not in words_so_far:
            assert process.is_alive() and process.pid is not None
            os.kill(process.pid, signal.SIGINT)
            interrupted = True
    os.close(leader)
    process.join(timeout=60)
    assert process.exitcode == 130
    assert shown.startswith(b"\r\x1b[Kloading torch and transformers")
    assert b"prefill [" in shown
    *_, text, error, rest = shown.rpartition(b"\x1b[K")[2].split(b"\r\n")
    assert error == b"sparrow: error: interrupted before it was done"
    assert rest == b"" and text != b""
    assert b"Traceback" not in shown
