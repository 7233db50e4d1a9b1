"""The training run: schedule, resumption, and the folder it leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.embedded.clips import ClipScript
from sparrow_kernels.embedded.draft_recipe import DraftRecipe
from sparrow_kernels.embedded.recipe import LanguageStage, Length
from sparrow_kernels.training import run as run_module
from sparrow_kernels.training.draft import train_draft
from sparrow_kernels.training.plan import Stage
from sparrow_kernels.training.run import DraftTraining
from sparrow_kernels.training.small_target import build_processor, build_target
from sparrow_kernels.training.target import language

CLIPS = LanguageStage(
    "run", (1, 2), (Length(1, (2, 3), 1.0),), steps=0, learning_rate=(0.0, 0.0), most_clips=2
)
RECIPE = DraftRecipe(clips=CLIPS, steps=4, warmup=2, passes=3)


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    """An untrained target of one layer and its processor."""
    processor = build_processor()
    return build_target(len(processor.tokenizer), layers=1, seed=3), processor


@pytest.fixture(autouse=True)
def random_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Visual tokens without a tile pool; what they are follows from the clip's seed."""

    def visual_tokens(script: ClipScript, *_: object) -> Tensor:
        generator = torch.Generator().manual_seed(script.seed)
        return torch.randn(script.visual_tokens, 128, generator=generator)

    monkeypatch.setattr(language, "clip_features", visual_tokens)


def weights(draft: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in draft.state_dict().items()}


def test_a_run_that_was_cut_ends_as_one_that_was_not(
    parts: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"recipe": RECIPE, "features": torch.empty(0)}
    whole = train_draft(*parts, tmp_path / "whole", **arguments)

    monkeypatch.setattr(run_module, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    step, cut_at = DraftTraining.step, [2]

    def cut_step(self: DraftTraining, number: int) -> Any:
        if number in cut_at:
            cut_at.remove(number)
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(DraftTraining, "step", cut_step)
    with pytest.raises(KeyboardInterrupt):
        train_draft(*parts, tmp_path / "cut", **arguments)
    state = torch.load(tmp_path / "cut" / "training.pt", weights_only=True)
    assert state["progress"]["step"] == 2
    resumed = train_draft(*parts, tmp_path / "cut", **arguments)
    expected = weights(SparrowDraft.from_pretrained(whole))
    for name, value in weights(SparrowDraft.from_pretrained(resumed)).items():
        assert torch.equal(value, expected[name]), name


def test_a_run_leaves_a_small_draft_that_fits_and_the_target_as_it_was(
    parts: tuple[Any, Any], tmp_path: Path
) -> None:
    target, _ = parts
    before = weights(target)
    folder = train_draft(*parts, tmp_path, recipe=replace(RECIPE, steps=1), features=torch.empty(0))
    draft = SparrowDraft.from_pretrained(folder)
    draft.check_fits(target)
    assert draft.dtype == torch.float16
    assert draft.config.tree == {"total": 6, "depth": 5, "width": 1}
    assert (folder / "model.safetensors").stat().st_size < 1.5e6
    for name, value in weights(target).items():
        assert torch.equal(value, before[name]), name


def test_learning_rate_rises_holds_and_falls() -> None:
    stage = Stage(steps=100, learning_rate=1.0, passes=1, warmup=10, hold=0.5)
    rates = [stage.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == pytest.approx([1.0] * 42)
    assert all(a > b for a, b in zip(rates[50:], rates[51:], strict=False))
    assert rates[75] == pytest.approx(0.51)
    assert 0.02 < rates[99] < 0.03
