"""A disassembly is kept for the very bytes and tool that it is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import listings


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was disassembled, in order."""
    monkeypatch.setattr(listings, "FOLDER", tmp_path / "kept")
    for name in ("cubin", "tool", "other"):
        (tmp_path / name).write_text(name)
    return []


def listing(folder: Path, said: list[str], tool: str = "tool") -> str:
    cubin = folder / "cubin"
    return listings.kept(
        cubin, str(folder / tool), lambda: said.append(cubin.read_text()) or f"é {said[-1]}"
    )


def test_the_same_is_disassembled_once(tmp_path: Path, said: list[str]) -> None:
    assert listing(tmp_path, said) == listing(tmp_path, said) == "é cubin"
    assert said == ["cubin"]


def test_other_bytes_and_another_tool_are_disassembled(tmp_path: Path, said: list[str]) -> None:
    listing(tmp_path, said)
    listing(tmp_path, said, tool="other")
    (tmp_path / "tool").write_text("newer")
    listing(tmp_path, said)
    (tmp_path / "cubin").write_text("cubic")
    assert listing(tmp_path, said) == "é cubic"
    assert said == ["cubin", "cubin", "cubin", "cubic"]


def test_what_cannot_be_kept_or_read_is_disassembled_again(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listing(tmp_path, said)
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_bytes(b"no archive")
    assert listing(tmp_path, said) == listing(tmp_path, said) == "é cubin"
    assert len(said) == 2
    monkeypatch.setattr(listings, "FOLDER", tmp_path / "tool" / "folder")  # below a file
    assert listing(tmp_path, said) == "é cubin"
    assert len(said) == 3
