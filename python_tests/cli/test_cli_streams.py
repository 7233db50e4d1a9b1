"""`sparrow` on streams that are closed, full, abandoned, or cannot show a text."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparrow_kernels import __version__
from sparrow_kernels.cli import environment, generate, main
from sparrow_kernels.cli.streams import guarded_streams
from sparrow_kernels.cli.terminal import ProgressBar, WordStream
from sparrow_kernels.decoding.stats import DecodeStats, RequestStats

ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "sparrow_kernels.cli"]
ANSWER = "né 中 🎈"
FULL = "sparrow: error: No space left on device: stdout\n"
needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def shell(command: list[str], streams: str, **settings: str) -> subprocess.CompletedProcess:
    """`command` with its streams redirected by a shell."""
    return subprocess.run(
        ["bash", "-c", f"exec {shlex.join(command)} {streams}"],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "words, status, out, err",
    [
        (["--version"], 0, f"sparrow {__version__}", ""),
        (["generate", "--help"], 0, "usage: sparrow generate", ""),
        (["foo"], 2, "", "sparrow: error: argument COMMAND: invalid choice: 'foo'"),
        (["generate", "none.mp4", "why"], 1, "", "sparrow: error: clip none.mp4 does not exist"),
    ],
)
def test_a_closed_stream_is_one_nobody_reads(
    words: list[str], status: int, out: str, err: str, streams: str
) -> None:
    done = shell([*CLI, *words], streams)
    closed_out, closed_err = ">&-" in streams.split(), "2>&-" in streams
    assert done.returncode == status
    assert done.stdout.startswith(out) if out and not closed_out else done.stdout == ""
    assert done.stderr.startswith(err) if err and not closed_err else done.stderr == ""


@pytest.mark.slow
def test_what_a_command_loads_stays_off_the_other_stream() -> None:
    done = shell([*CLI, "env"], ">&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = shell([*CLI, "env", "--json"], "2>&-")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["versions"]["sparrow_kernels"] == __version__


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Else what C code prints on 1 or 2 would land in a clip that is being written."""
    code = (
        "import os, sys; from sparrow_kernels.cli import main; main(['--version'])\n"
        "with open(sys.argv[1], 'w') as seen:\n"
        "    seen.write(' '.join(os.readlink(f'/proc/self/fd/{n}') for n in range(3)))"
    )
    seen = tmp_path / "seen"
    assert shell([sys.executable, "-c", code, str(seen)], "<&- >&- 2>&-").returncode == 0
    assert seen.read_text() == " ".join([os.devnull] * 3)


def test_streams_that_are_none_or_closed_come_back_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):  # None is what pythonw has
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["--version"]) == 0
        assert main(["foo"]) == 2
        assert sys.stdout is stream and sys.stderr is stream


@pytest.mark.slow
@needs_full_device
@pytest.mark.parametrize("words, unbuffered", [(["--version"], ""), (["--help"], "1"), ([], "1")])
def test_a_full_disk_behind_stdout_is_an_error(words: list[str], unbuffered: str) -> None:
    done = shell([*CLI, *words], ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", FULL)


@needs_full_device
@pytest.mark.parametrize(
    "words, status", [(["--version"], 0), (["foo"], 2), (["generate", "a", "b"], 1)]
)
def test_a_full_disk_behind_stderr_changes_nothing(words: list[str], status: int) -> None:
    done = shell([*CLI, *words], "2>/dev/full")
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout == (f"sparrow {__version__}\n" if status == 0 else "")


def test_help_for_a_reader_that_is_gone_says_nothing() -> None:
    process = subprocess.Popen(
        [*CLI, "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_broken_pipe_that_is_not_stdout_is_an_error_like_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise BrokenPipeError(32, "Broken pipe", "decoder")

    monkeypatch.setattr(environment, "describe", broken)
    assert main(["env"]) == 1
    assert capsys.readouterr().err == "sparrow: error: Broken pipe: decoder\n"


class Console(io.TextIOWrapper):
    """A stream of one encoding, as strict as Python's own stdout."""

    def __init__(self, encoding: str, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def shown(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A `generate` whose models answer `ANSWER`; gives its words."""
    row = RequestStats(new_tokens=3, target_calls=1, histogram=[0, 0, 1])
    prepared = SimpleNamespace(
        texts=lambda _: [ANSWER], visual_tokens=[8], unlike=[], not_taught=[]
    )
    result = SimpleNamespace(stats=DecodeStats(seconds={"draft": 0.5}, rows=[row]))
    monkeypatch.setattr(generate, "_prepare", lambda *_: prepared)
    monkeypatch.setattr(generate, "_decode", lambda *_: result)
    yield ["generate", str(ROOT / "pyproject.toml"), "why"]


@pytest.mark.parametrize(
    "encoding, shown",
    [
        ("ascii", r"n\xe9 \u4e2d \U0001f388"),
        ("cp1252", r"né \u4e2d \U0001f388"),
        ("gbk", r"né 中 \U0001f388"),
        ("utf-8", ANSWER),
    ],
)
def test_an_answer_arrives_on_a_console_that_cannot_show_all_of_it(
    answered: list[str], encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = Console(encoding), Console(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(answered) == 0
    assert out.shown() == shown + "\n"
    assert err.shown().startswith("8 visual tokens; 3 tokens in 1 target call")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk", "utf-16", "utf-8"])
def test_json_is_exact_on_every_console(
    answered: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Console(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert main([*answered, "--json"]) == 0
    assert json.loads(out.shown())["text"] == ANSWER
    assert (ANSWER in out.shown()) == (encoding == "utf-8")
    assert out.shown().isascii() == (encoding != "utf-8")


def test_json_of_a_setting_with_a_stray_byte_is_exact(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "describe", lambda: {"settings": {"A": "é\udcff"}})
    assert main(["env", "--json"]) == 0
    assert capsys.readouterr().out == '{"settings": {"A": "\\u00e9\\udcff"}}\n'


class Bytes:
    """A tokenizer of one token a byte."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


class Row(list):
    """As much of a tensor as a streamer needs."""

    def flatten(self) -> Row:
        return self

    def tolist(self) -> list[int]:
        return self


def test_streamed_words_arrive_on_a_terminal_that_cannot_show_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, err = Console("ascii", terminal=True), Console("ascii", terminal=True)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with guarded_streams(), ProgressBar("prefill") as bar:
        bar.note("loading é")
        words = WordStream(Bytes(), bar)
        words.put(Row([0]))
        for byte in ANSWER.encode():
            words.put(Row([byte]))
        words.end()
    assert out.shown() == r"n\xe9 \u4e2d \U0001f388" + "\n"
    assert r"loading \xe9" in err.shown()


class Failing(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_hangs_up_does_not_cost_the_answer(
    answered: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Failing())
    assert main(answered) == 0
    assert capsys.readouterr().out == ANSWER + "\n"


def test_errors_are_one_line_whatever_a_name_holds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def said(*words: str) -> Any:
        assert main(list(words)) in (1, 2)
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err

    name = str(tmp_path / "a\n\x1b[1mb\udcff.mp4")
    shown = str(tmp_path / r"a \x1b[1mb\udcff.mp4")
    assert said("generate", name, "why") == f"sparrow: error: clip {shown} does not exist\n"
    assert said("env", "a\nb\x07") == (
        r"sparrow: error: unrecognized arguments: a b\x07 (see sparrow env --help)" + "\n"
    )
    assert len(said("env", "x" * 10_000)) < 500
