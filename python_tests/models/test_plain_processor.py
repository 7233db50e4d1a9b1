"""The processor in plain torch makes what transformers' makes, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparrow_kernels.video_shim import unavailable

if (lacking := unavailable()) is not None:
    pytest.skip(lacking, allow_module_level=True)

from transformers import AutoProcessor  # noqa: E402

from sparrow_kernels.models.inputs import build_batch, build_inputs  # noqa: E402
from sparrow_kernels.models.pair import EMBEDDED_WEIGHTS  # noqa: E402
from sparrow_kernels.models.plain_processor import PlainProcessor, serves  # noqa: E402
from sparrow_kernels.video.clip import Clip  # noqa: E402

SAVED = EMBEDDED_WEIGHTS / "target"
SIZES = [(4, 56, 84), (17, 120, 96), (2, 240, 500), (3, 20, 31), (300, 56, 56), (40, 280, 336)]


def clip(frames: int, height: int, width: int) -> Clip:
    pixels = torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8)
    return Clip(pixels, fps=2)


def same(plain: dict[str, Any], of_transformers: dict[str, Any]) -> None:
    assert set(plain) == set(of_transformers)
    for name, expected in of_transformers.items():
        assert torch.equal(torch.as_tensor(plain[name]), torch.as_tensor(expected)), name


@pytest.mark.parametrize(
    "settings",
    [{}, {"cap_pixels_per_frame": False, "patch_size": 16, "image_mean": [0.48, 0.45, 0.4]}],
    ids=["the embedded", "another"],
)
def test_it_makes_what_transformers_makes(tmp_path: Path, settings: dict[str, Any]) -> None:
    reader = AutoProcessor.from_pretrained(SAVED)
    for name, value in settings.items():
        setattr(reader.video_processor, name, value)
    reader.save_pretrained(tmp_path)
    reader = AutoProcessor.from_pretrained(tmp_path)
    assert serves(tmp_path)
    plain = PlainProcessor(tmp_path)
    clips = [clip(*size) for size in SIZES]
    for each in clips:
        same(build_inputs(plain, "what?", [each]), build_inputs(reader, "what?", [each]))
    same(build_inputs(plain, "and?", clips[:3]), build_inputs(reader, "and?", clips[:3]))
    same(build_batch(plain, "each?", clips[:3]), build_batch(reader, "each?", clips[:3]))


def test_it_stands_for_what_it_can_alone(tmp_path: Path) -> None:
    settings = json.loads((SAVED / "processor_config.json").read_text())
    for name, value in (("resample", 2), ("do_resize", False), ("video_processor_type", "Other")):
        changed = settings | {"video_processor": settings["video_processor"] | {name: value}}
        (tmp_path / "processor_config.json").write_text(json.dumps(changed))
        assert not serves(tmp_path)
    assert serves(SAVED) and not serves(tmp_path / "nowhere")


def test_pictures_and_a_wrong_number_of_clips_are_refused() -> None:
    plain = PlainProcessor(SAVED)
    with pytest.raises(NotImplementedError, match="without torchvision"):
        plain(["a"], images=[object()])
    with pytest.raises(ValueError, match="a place a clip = 0, got 1"):
        plain(["<|video_pad|>"])
