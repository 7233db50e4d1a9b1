"""docs/kernels/index.md names every op, every CUDA source, and only files that are there."""

from __future__ import annotations

import re
from pathlib import Path

from bench import registry

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/kernels/index.md").read_text(encoding="utf-8")


def test_every_op_has_its_kernels() -> None:
    table = PAGE.partition("## CUDA")[0]
    listed = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.M))))
    assert listed == {*registry.kinds(), "bind_caches"}


def test_its_files_are_there_and_none_of_cuda_is_missing() -> None:
    named = set(re.findall(r"`((?:csrc|sparrow_kernels)/[\w/]+\.\w+)`", PAGE))
    assert [name for name in named if not (ROOT / name).is_file()] == []
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc/cuda").glob("*.cu")}
    assert sources <= named
