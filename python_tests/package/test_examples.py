"""The examples run and say what they should."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_verify_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "verify_a_tree.py"))
    out = capsys.readouterr().out
    assert "emitted: [[21, 32, 77, -1], [41, 42, 99, -1]]" in out
    assert "committed slots: [13, 23]" in out


def test_describe_a_clip(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "describe_a_clip.py"))
    out = capsys.readouterr().out
    assert out.startswith("This is a video made of")
    assert "tokens a target call" in out
