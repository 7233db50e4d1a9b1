"""Every argument of every command: what it takes, and what it refuses by name, before loading."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparrow_kernels.cli import arguments, clip, evaluate, generate, main, train

ROOT = Path(__file__).resolve().parents[2]
SEEDS, MANY = "0 to 18446744073709551615", "1 to 1000000000"
GENERATE = ("generate", "a.mp4", "why")
# Command, argument, range. Words go in front of each argument as the command needs them.
WHOLE = [
    (GENERATE, "--seed", SEEDS),
    (GENERATE, "--max-new-tokens", MANY),
    (GENERATE, "--repeats", "1 to 1000"),
    (("clip", "a.mp4"), "--seed", SEEDS),
    (("clip", "a.mp4"), "--visual-tokens", MANY),
    (("evaluate",), "--lengths", MANY),
    (("evaluate",), "--max-new-tokens", MANY),
    (("evaluate",), "--repeats", "1 to 1000"),
    (("train", "target"), "--seed", "0 to 4294967295"),
    (("train", "draft"), "--seed", "0 to 4294967295"),
]


@pytest.fixture(autouse=True)
def where_one_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout may be read-only, and a file that is to be written is refused there by name."""
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that refuses a command line."""
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("sparrow: error: argument ")
    return captured.err.removeprefix("sparrow: error: argument ").partition(" (see ")[0]


def parsed(monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """The arguments that a command is run with."""
    seen: list[Any] = []
    for command in (generate, clip, evaluate, train):
        monkeypatch.setattr(command, "run", lambda given: seen.append(given) or 0)
    assert main(list(words)) == 0
    return seen[0]


@pytest.mark.parametrize("command, argument, limits", WHOLE)
def test_a_whole_number_is_taken_up_to_its_limits(
    command: tuple[str, ...], argument: str, limits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = argument.strip("-").replace("-", "_")
    for limit in (*limits.split(" to "), "007"):
        given = getattr(parsed(monkeypatch, *command, argument, limit), name)
        assert given in (int(limit), [int(limit)])


@pytest.mark.parametrize("command, argument, limits", WHOLE)
def test_what_is_no_whole_number_within_them_is_refused_by_name(
    command: tuple[str, ...], argument: str, limits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    least, most = (int(limit) for limit in limits.split(" to "))
    unicode_digits = ["²", "٣", "１"]  # isdigit, isdecimal, and what int() reads
    too_long = "9" * 5000  # beyond what Python reads as a number
    beyond = [str(most + 1), str(least - 1), "1" + "0" * 30, too_long]
    for word in (*unicode_digits, *beyond, "", " ", "1.0", "1e3", "+1", "1_0", "x", "\udcff"):
        message = refused(capsys, *command, f"{argument}={word}")
        assert message.startswith(f"{argument}: must be a whole number from {limits}, got ")
        assert len(message) < 200


@pytest.mark.parametrize(
    "word, said",
    [
        ("1e-40", "0 or at least 1e-05, got '1e-40' (use 0 for greedy)"),
        ("9.9e-6", "0 or at least 1e-05, got '9.9e-6' (use 0 for greedy)"),
        ("1e400", "a finite number of at least 0, got '1e400'"),
        ("nan", "a finite number of at least 0, got 'nan'"),
        ("inf", "a finite number of at least 0, got 'inf'"),
        ("-1e-9", "a finite number of at least 0, got '-1e-9'"),
        ("٣", "a finite number of at least 0, got '٣'"),
        ("1_0", "a finite number of at least 0, got '1_0'"),
        ("1e", "a finite number of at least 0, got '1e'"),
        ("", "a finite number of at least 0, got ''"),
        ("1" * 5000, f"a finite number of at least 0, got '{'1' * 60}…'"),
    ],
)
def test_temperatures_that_are_refused(
    word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*GENERATE, f"--temperature={word}"]) == 2
    assert f"argument --temperature: must be {said} (see " in capsys.readouterr().err


@pytest.mark.parametrize("word, value", [("0", 0.0), ("-0.0", 0.0), ("1e-5", 1e-5), ("7E2", 700)])
def test_temperatures_that_are_taken(word: str, value: float) -> None:
    assert arguments.temperature(word) == value


@pytest.mark.parametrize("word", ["auto", "cpu", "cuda", "cuda:0", "cuda:11"])
def test_devices_that_are_taken(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(monkeypatch, *GENERATE, "--device", word).device == word


@pytest.mark.parametrize("word", ["", "gpu", "cuda:", "cuda:-1", "cuda:1234", "CPU", "cuda:٣"])
def test_what_names_no_device_is_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, *GENERATE, f"--device={word}")
    assert message == f"--device: must be auto, cpu, cuda or cuda:N, got {word!r}"


@pytest.mark.parametrize(
    "argument, choices",
    [
        ("--dtype", ["auto", "float32", "bfloat16", "float16"]),
        ("--attn", ["auto", "native", "triton", "torch", "reference"]),
    ],
)
def test_choices(
    argument: str,
    choices: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = refused(capsys, *GENERATE, argument, "half")
    assert message.startswith(f"{argument}: invalid choice: 'half' (choose from ")
    assert all(choice in message for choice in choices)
    for choice in choices:
        given = parsed(monkeypatch, *GENERATE, argument, choice)
        assert getattr(given, argument.strip("-")) == choice


@pytest.mark.parametrize("word", ["3", "0", "nan", "1/0", "²", "1e-99", "1e99999999", "9" * 5000])
def test_a_rate_is_refused_in_the_words_of_those_who_sample(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, *GENERATE, f"--fps={word}")
    assert message.startswith("--fps: fps must be 2 divided by a whole number, got ")


@pytest.mark.parametrize(
    "word, said",
    [
        ("1000000000-4-8", "total must be a whole number from 1 to 4096, got 1000000000"),
        ("30-4-9999", "width must be a whole number from 1 to 4096, got 9999"),
        ("30-4000-4000", "must grow at most 1048576 nodes, got 63984004000"),
        ("9-2-2:marginals", "total must be at most 7 for depth 2 and width 2 with marginals"),
        ("64x64x64", "branching must make at most 4096 nodes, got [64, 64, 64]"),
        ("3٠-4-8", "must be total-depth-width such as 30-4-8"),
        ("9" * 5000 + "-4-8", "must be total-depth-width such as 30-4-8"),
    ],
)
def test_a_tree_that_cannot_be_is_refused(
    word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, *GENERATE, "--tree", word)
    assert message.startswith("--tree: ") and said in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "word, said",
    [
        ("", "must not be empty"),
        (" \t\n", "must not be empty"),
        ("\udcff", "must be UTF-8 text, got a stray byte 0xff at its start"),
        ("who is th\udce9re", "must be UTF-8 text, got a stray byte 0xe9 after 'who is th'"),
    ],
)
def test_a_question_no_tokenizer_takes_is_refused_before_the_clip_is_looked_for(
    word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "generate", "none.mp4", word) == f"QUESTION: {said}"


def question_asked(question: bytes, **settings: str) -> subprocess.CompletedProcess:
    """What a process makes of a question given as bytes."""
    code = (
        "import sys; from sparrow_kernels.cli import generate, main\n"
        "generate.run = lambda given: print(ascii(given.question)) or 0\n"
        "sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable.encode(), b"-c", code.encode(), b"generate", b"a.mp4", question],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_question_is_utf8_in_every_locale() -> None:
    plain_c = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = question_asked("né?".encode(), **plain_c)
    assert (done.returncode, done.stdout, done.stderr) == (0, "'n\\xe9?'\n", "")
    for settings in (plain_c, {"PYTHONUTF8": "1"}):
        done = question_asked(b"n\xe9?", **settings)
        assert (done.returncode, done.stdout) == (2, "")
        assert "argument QUESTION: must be UTF-8 text, got a stray byte 0xe9 after 'n'" in (
            done.stderr
        )


@pytest.mark.parametrize(
    "words, argument",
    [
        (["generate", "", "why"], "CLIP.mp4"),
        ([*GENERATE, "--target", ""], "--target"),
        ([*GENERATE, "--batch", "b.mp4", ""], "--batch"),
        ([*GENERATE, "--draft", ""], "--draft"),
        (["clip", ""], "OUT.mp4"),
        (["evaluate", "--target", ""], "--target"),
        (["evaluate", "--draft", ""], "--draft"),
        (["evaluate", "--clips", ""], "--clips"),
        (["evaluate", "--csv", ""], "--csv"),
        (["train", "draft", "--target", ""], "--target"),
        (["train", "draft", "--out", ""], "--out"),
    ],
)
def test_an_empty_path_is_not_the_folder_we_stand_in(
    words: list[str], argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, *words) == f"{argument}: must be a path, got ''"


def test_a_url_is_named_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    assert main(["generate", "https://host/a.mp4", "why"]) == 1
    message = capsys.readouterr().err
    assert "got the URL https://host/a.mp4 (download it first)" in message
