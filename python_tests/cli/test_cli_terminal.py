"""What a person sees: words as they come, and a bar that leaves no trace."""

from __future__ import annotations

import io
import os

import pytest
import torch

from sparrow_kernels.cli.terminal import ProgressBar, WordStream

CLEAR = "\r\033[K"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Bytes:
    """A tokenizer of one token a byte; 0 is a special token."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return bytes(token for token in tokens if token).decode("utf-8", errors="replace")


def streamed(text: str, sizes: list[int]) -> list[str]:
    """What has been written after each `put` of `sizes` bytes, and after the end."""
    out = Terminal()
    words = WordStream(Bytes(), ProgressBar("x", io.StringIO()), out)
    words.put(torch.tensor([[7, 7, 7]]))  # the prompt is not echoed
    data, seen = list(text.encode()), []
    for size in sizes:
        words.put(torch.tensor(data[:size]))
        data = data[size:]
        seen.append(out.getvalue())
    words.end()
    return [*seen, out.getvalue()]


def test_only_whole_words_are_printed_and_nothing_is_lost() -> None:
    assert streamed("a red ring.", [3, 2, 4, 2]) == [
        "a ",
        "a ",
        "a red ",
        "a red ",
        "a red ring.\n",
    ]


def test_characters_wait_for_all_their_bytes() -> None:
    assert streamed("né 中文", [2, 2, 2, 2, 2]) == [
        "",
        "né ",
        "né ",
        "né 中",
        "né 中文",
        "né 中文\n",
    ]


def test_special_tokens_are_left_out() -> None:
    assert streamed("ab\0", [3]) == ["", "ab\n"]


def test_a_cut_ends_the_line_once() -> None:
    out = Terminal()
    words = WordStream(Bytes(), ProgressBar("x", io.StringIO()), out)
    words.cut()  # before the prompt
    words.put(torch.tensor([[7]]))
    words.cut()  # before a word
    assert out.getvalue() == ""
    words.put(torch.tensor(list(b"half a wo")))
    words.cut()
    words.cut()
    assert out.getvalue() == "half a wo\n"


def test_the_bar_is_redrawn_in_place_and_cleared_before_the_first_word() -> None:
    err, out = Terminal(), Terminal()
    with ProgressBar("prefill", err) as bar:
        bar.note("loading")
        bar(0, 8)
        bar(8, 8)
        words = WordStream(Bytes(), bar, out)
        words.put(torch.tensor([[7]]))
        words.put(torch.tensor(list(b"a b")))
        drawn = err.getvalue()
    assert err.getvalue() == drawn  # nothing was left to clear
    assert "\n" not in drawn and drawn.endswith(CLEAR)
    lines = drawn.split(CLEAR)
    assert lines[1] == "loading"
    assert lines[2].startswith("prefill [........................] 0/8 ")
    assert lines[3].startswith("prefill [########################] 8/8 ")


def test_the_bar_is_cleared_by_an_error() -> None:
    err = Terminal()
    try:
        with ProgressBar("prefill", err) as bar:
            bar(1, 2)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert err.getvalue().endswith(CLEAR)


def test_no_bar_without_a_terminal() -> None:
    err = io.StringIO()
    with ProgressBar("prefill", err) as bar:
        bar.note("loading")
        bar(1, 2)
    assert err.getvalue() == ""


@pytest.mark.parametrize(
    "text, shown",
    [
        ("looking through a clip of a long name.mp4", "looking through a c"),
        ("looking through 中中中中中.mp4", "looking through 中"),
        ("two\nlines", "two lines"),
    ],
)
def test_a_line_is_cut_where_the_terminal_ends(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a line that wraps only the end could be cleared."""
    err = Terminal()
    monkeypatch.setattr(err, "fileno", lambda: 7)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((20, 5)))
    with ProgressBar("prefill", err) as bar:
        bar.note(text)
        assert err.getvalue() == CLEAR + shown
        bar(1, 2)
        assert err.getvalue().split(CLEAR)[2] == "prefill [##########"[:19]


def test_no_bar_on_a_terminal_that_cannot_redraw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    err = Terminal()
    with ProgressBar("prefill", err) as bar:
        bar.note("loading")
        bar(1, 2)
    assert err.getvalue() == ""
