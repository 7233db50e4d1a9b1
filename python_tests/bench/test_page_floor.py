"""The bare loop of `bench.page_floor` reads what the op reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from bench import page_floor


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="a C++ compiler is missing"
)
def test_in_pages_and_in_one_piece_it_adds_up_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    words, run = [], subprocess.run

    def seen(command: list[str], *, check: bool) -> None:
        words.extend(command)
        run(command, check=check)

    monkeypatch.setattr(subprocess, "run", seen)
    ways = page_floor.ways(page_floor.compiled(), 512)
    whole, in_pages = ways["bare"](), ways["bare in pages"]()
    assert abs(whole) > 1 and whole == pytest.approx(in_pages, rel=1e-3)
    assert torch.equal(ways["op"](), ways["op in pages"]())
    assert torch.tensor(1e-40).mul(1.0) > 0, "the loop was linked for fast mathematics"
    written = Path(words[words.index("-o") + 1])
    assert written.is_relative_to(tmp_path), "a checkout may be one that is only read"
    assert not list(tmp_path.iterdir())
