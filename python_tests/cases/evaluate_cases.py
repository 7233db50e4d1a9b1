"""Pairs of other families and video files, as a user has them, for `sparrow evaluate`."""

from __future__ import annotations

from pathlib import Path

from family_cases import draft_for, pixels, tiny

from sparrow_kernels.embedded.clips import write_mp4

FAMILIES = ("llava_onevision", "qwen3_vl")


def written(root: Path) -> Path:
    """Pairs in FAMILY/target and FAMILY/draft; videos of 20, 16 and 4 frames in clips/."""
    for name in FAMILIES:
        target, processor = tiny(name)
        target.save_pretrained(root / name / "target")
        processor.save_pretrained(root / name / "target")
        draft_for(name).save_pretrained(root / name / "draft")
    (root / "clips").mkdir()
    for clip, frames in {"b.mp4": 16, "a.mp4": 20, "short.mp4": 4}.items():
        seen = pixels(frames, seed=frames).numpy().transpose(0, 2, 3, 1)
        write_mp4(root / "clips" / clip, seen)
    (root / "clips" / "notes.txt").write_text("no video")
    return root


def pair(root: Path, name: str) -> list[str]:
    """Arguments that name a family's pair."""
    target, draft = (str(root / name / part) for part in ("target", "draft"))
    return ["--target", target, "--draft", draft]
