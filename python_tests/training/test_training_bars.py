"""Progress is a bar on a terminal and lines in a file, never one in the place of the other."""

from __future__ import annotations

import io
import sys

import pytest

from sparrow_kernels.training import bars
from sparrow_kernels.training.bars import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **about: object) -> str:
    """What three steps write, of which two were done before."""
    monkeypatch.setattr(sys, "stderr", stream)
    with bar(total=5, initial=2, desc="draft", unit="step", **about) as steps:
        for loss in (3.0, 2.0, 1.0):
            steps.set_postfix(refresh=False, loss=loss)
            steps.update()
    return stream.getvalue()


def test_a_terminal_has_a_bar_and_a_dumb_one_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert "\rdraft: 100%" in shown(monkeypatch, Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert shown(monkeypatch, Terminal()) == ""
    said = shown(monkeypatch, Terminal(), logged=True)
    assert said == "draft: 5 of 5 steps, 00:00, loss=1\n"


def test_a_pipe_has_nothing_or_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO()) == ""
    assert shown(monkeypatch, io.StringIO(), logged=True, disable=True) == ""
    said = shown(monkeypatch, io.StringIO(), logged=True)
    assert said == "draft: 5 of 5 steps, 00:00, loss=1\n"
    monkeypatch.setattr(bars, "_SECONDS_BETWEEN_LINES", 0.0)
    said = shown(monkeypatch, io.StringIO(), logged=True)
    assert [line[:13] for line in said.splitlines()] == [f"draft: {n} of 5" for n in (3, 4, 5)]


def test_it_goes_over_steps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(bar([1, 2], logged=True, desc="tiles", unit="file")) == [1, 2]
    assert stream.getvalue() == "tiles: 2 of 2 files, 00:00\n"
