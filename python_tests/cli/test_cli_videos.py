"""The videos that `--clips` stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparrow_kernels.cli.videos import files


def test_a_folder_is_its_videos_in_order(tmp_path: Path) -> None:
    """Cameras write endings in capitals; `._a.mp4` is what macOS leaves beside a copied `a.mp4`."""
    for name in ("b.MP4", "a.mkv", "._a.mkv", "notes.txt", "c.webm"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    assert [video.name for video in files([str(tmp_path)])] == ["a.mkv", "b.MP4", "c.webm"]


def test_a_folder_of_hidden_videos_holds_none(tmp_path: Path) -> None:
    (tmp_path / ".a.mp4").touch()
    with pytest.raises(ValueError, match=r"holds no video \(\.3gp "):
        files([str(tmp_path)])
