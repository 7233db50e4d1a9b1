"""The `--help` of every benchmark: how it is called, and its own lines as they are."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

NAMES = (
    "ablation.__main__", "compare", "decoding", "demo", "drafts", "evaluation", "goals", "lossless",
    "page_floor", "plans", "plot", "predict", "real_language.__main__", "run", "static", "step",
    "summary", "tables", "warm",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_to_type(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"bench.{name}")
    monkeypatch.setattr(sys, "argv", ["somewhere.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: python -m bench.{name.removesuffix('.__main__')} ")
    assert (module.__doc__ or "nothing").strip() in shown
