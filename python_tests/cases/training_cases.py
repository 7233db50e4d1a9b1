"""A training batch of two clips, and the same clips as a processor prepares them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from sparrow_kernels.embedded.clips import ClipScript, render
from sparrow_kernels.embedded.recipe import LanguageStage, Length
from sparrow_kernels.embedded.world import FRAMES_PER_SECOND
from sparrow_kernels.training.small_target import build_processor, build_target, clip_inputs
from sparrow_kernels.training.target import language
from sparrow_kernels.training.target.language import BatchMaker, ClipBatch

STAGE = LanguageStage(
    "rows", (2, 3), (Length(2, (5, 5), 1.0),), steps=0, learning_rate=(0.0, 0.0), most_clips=2
)


class Made(NamedTuple):
    """A training batch of two clips, and the same clips as a processor prepares them."""

    target: Any
    batch: ClipBatch
    prepared: list[dict[str, Any]]


@cache
def made() -> Made:
    """The batch's visual tokens come from the target's own tower over the rendered frames."""
    processor = build_processor()
    target = build_target(len(processor.tokenizer), layers=2, seed=3).eval()
    prepared: list[dict[str, Any]] = []

    @torch.no_grad()
    def visual_tokens(script: ClipScript, *_: object) -> Tensor:
        inputs = dict(clip_inputs(processor, render(script), FRAMES_PER_SECOND, "QUESTION"))
        prepared.append(inputs)
        visual = target.model.visual(
            inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"]
        )
        return getattr(visual, "pooler_output", visual)

    maker = BatchMaker(processor.tokenizer.backend_tokenizer, torch.empty(0), seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "clip_features", visual_tokens)
        batch = maker(STAGE, 0)
    return Made(target, batch, prepared)
