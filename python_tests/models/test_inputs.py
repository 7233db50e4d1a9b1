"""What a processor is asked for, and what is put right of its answer."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparrow_kernels.models import inputs
from sparrow_kernels.video.clip import MAX_FRAMES


class Processor:
    """Keeps what it is called with."""

    def __init__(self, **of_videos: Any) -> None:
        self.video_processor = SimpleNamespace(**of_videos)
        self.asked: dict[str, Any] = {}

    def __call__(self, **asked: Any) -> dict[str, Any]:
        self.asked = asked
        return {"second_per_grid_ts": [48.99999]} if "videos" in asked else {}


def test_prompts_are_padded_on_the_left_whatever_a_tokenizer_prefers() -> None:
    processor = Processor()
    inputs.processor_outputs(processor, ["one"], [])
    assert not {"padding", "padding_side"} & set(processor.asked)
    inputs.processor_outputs(processor, ["one", "and another"], [])
    assert (processor.asked["padding"], processor.asked["padding_side"]) == (True, "left")


def test_seconds_are_those_of_exact_rates() -> None:
    clip: Any = SimpleNamespace(frames=torch.zeros(4, 3, 8, 8), fps=Fraction(2, 49))
    found = inputs.processor_outputs(Processor(temporal_patch_size=2), ["one"], [clip])
    assert found["second_per_grid_ts"].tolist() == [49.0]


@pytest.mark.parametrize(
    ("of_videos", "expected"),
    [
        ({"max_frames": 7, "temporal_patch_size": 4}, {"max_frames": 7, "temporal_patch_size": 4}),
        ({}, {"max_frames": MAX_FRAMES, "temporal_patch_size": 2}),
    ],
)
def test_a_clip_has_no_more_frames_than_a_processor_takes(
    of_videos: dict[str, int], expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "read_clip", lambda clip, fps, **settings: settings)
    assert inputs.clip_for(Processor(**of_videos), "a.mp4", 2.0) == expected
