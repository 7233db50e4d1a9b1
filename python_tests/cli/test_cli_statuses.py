"""Exit statuses are those that `sparrow --help` lists, in every command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparrow_kernels.cli import environment, main
from sparrow_kernels.cli.errors import STATUSES, explain, status_of, told_when_cut
from sparrow_kernels.cli.signals import Terminated

# What the command line alone tells to be wrong, and what is found in the doing.
WRONG = [
    ["generate", "a.mp4", "why", "--compare", "--batch", "b.mp4"],
    ["generate", "a.mp4", "why", "--target", "t", "--world", "easy"],
    ["generate", "a.mp4", "why", "--trace", "there.html"],
    ["generate", "-", "why"],
    ["generate", "a.mp4", "-"],
    ["clip", "there.mp4"],
    ["clip", "a.avi"],
    ["clip", "no/a.mp4"],
    ["clip", "a.mp4", "--visual-tokens", "4"],
    ["train", "target", "--target", "t"],
    ["train", "target", "--out", "there.csv"],
    ["train", "draft", "--batch", "2"],
    ["train", "draft", "--target", "t", "--world", "easy"],
    ["draft", "convert", "d", "--target", "t", "--out", "there.csv"],
    ["draft", "inspect", "d", "--foo"],
    ["evaluate", "--csv", "there.csv"],
    ["evaluate", "--plot", "there.png"],
    ["evaluate", "--clips", "0"],
    ["evaluate", "--lengths", "9"],
    ["evaluate", "--answers", "--json"],
    ["evaluate", "--target", "t", "--world", "easy"],
    ["env", "--foo"],
    ["nothing"],
]
FAILS = [
    ["generate", "none.mp4", "why"],
    ["generate", "https://host/a.mp4", "why"],
    ["generate", "there.mp4", "why", "--batch", "none.mp4"],
    ["generate", "there.mp4", "why", "--target", "none"],
    ["train", "draft", "--target", "none"],
    ["train", "draft", "--data", "none"],
    ["draft", "inspect", "./none"],
    ["evaluate", "--clips", "none.mp4"],
    ["evaluate", "--clips", "."],
    ["evaluate", "--target", "none"],
]


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are in the way."""
    monkeypatch.chdir(tmp_path)
    for name in ("there.html", "there.mp4", "there.csv", "there.png"):
        Path(name).write_text("mine")


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_wrong_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("sparrow: error: ")
    assert {path.read_text() for path in Path().iterdir()} == {"mine"}


@pytest.mark.parametrize("words", FAILS, ids=" ".join)
def test_an_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if "--clips" in words:
        Path("there.mp4").unlink()  # a folder without a video
    assert main(words) == 1
    assert capsys.readouterr().err.startswith("sparrow: error: ")


@pytest.mark.parametrize("error, status", [(KeyboardInterrupt(), 130), (Terminated(15), 143)])
def test_ended_by_a_signal(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended() -> None:
        raise error

    monkeypatch.setattr(environment, "describe", ended)
    assert main(["env"]) == status_of(error) == status


def test_the_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = re.findall(r"^  (\d+) +(.+)$", capsys.readouterr().out, re.MULTILINE)
    assert {int(status): meaning for status, meaning in listed} == STATUSES


def test_who_is_cut_is_told_what_is_left() -> None:
    with pytest.raises(KeyboardInterrupt) as cut, told_when_cut(lambda: "a is in b"):
        raise KeyboardInterrupt
    assert explain(cut.value) == "interrupted before it was done (a is in b)"
    assert explain(Terminated(15)) == "terminated before it was done"
