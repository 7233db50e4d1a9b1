"""The embedded pair, end to end: same words, an accurate target, a draft that helps."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from bench.lossless import measure
from sparrow_kernels.embedded.worlds import HARDER
from sparrow_kernels.measuring.evaluation import UNSEEN_SEED, caption_inputs, evaluate_draft
from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models.pair import EMBEDDED_WEIGHTS, load_pair
from sparrow_kernels.training.evaluation import evaluate_budget

TREES = ["6-5-1", "25-5-8", "30-4-8"]


@cache
def pair(world: str = "easy"):
    return load_pair(world=world)


@pytest.mark.slow
def test_unseen_clips_are_described_in_the_same_words() -> None:
    """Eight clips over captions and every question type, with the paper's trees and a chain."""
    rows = measure(8, 300, TREES)
    assert sum(row["clips"] for row in rows) == 8 * len(TREES)
    assert [row for row in rows if row["identical"] != row["clips"]] == []
    captions = [row for row in rows if row["question"] == "describe"]
    assert all(row["mean_emitted"] > 3 for row in captions), "the draft does not draft"


@pytest.mark.slow
def test_target_reads_clips_through_mp4() -> None:
    shares = evaluate_budget(
        pair().target, pair().processor, 500, range(UNSEEN_SEED + 60, UNSEEN_SEED + 64)
    )
    assert shares["content"] > 0.9


@pytest.mark.slow
def test_states_carry_the_clip() -> None:
    """Fed another clip's states, the same draft is accepted less."""
    seeds = range(UNSEEN_SEED + 50, UNSEEN_SEED + 53)
    result = evaluate_draft(*pair(), 500, seeds)
    assert result["mean_emitted"] > 4.5
    assert result["mean_emitted"] - result["mean_emitted_other_clip"] > 0.7


@pytest.mark.slow
def test_the_harder_pair_reads_order_and_motion() -> None:
    """Nothing drawn tells a part's number. The draft helps, and changes no word."""
    target, draft, processor = pair("harder")
    seeds = range(UNSEEN_SEED + 60, UNSEEN_SEED + 63)
    shares = evaluate_budget(target, processor, 300, seeds, ("describe", "list", "action"))
    assert shares["content"] > 0.9
    assert evaluate_draft(*pair("harder"), 300, seeds[:2], control=False)["mean_emitted"] > 2

    inputs = caption_inputs(processor, HARDER.make_clip(300, seeds[0]), HARDER)
    words = {"max_new_tokens": 100, "do_sample": False}
    ours = SparrowDecoder(target, draft).generate(**inputs, **words)
    assert torch.equal(ours.sequences, target.generate(**inputs, **words))


def test_weights_are_small_and_not_pickled() -> None:
    files = [file for file in EMBEDDED_WEIGHTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 12 * 2**20
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".jinja", ".txt"}


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_half_precision_runs(dtype: torch.dtype) -> None:
    """In bf16 a verify of several rows rounds otherwise than single steps; it must still work."""
    target, draft, processor = pair()
    inputs = processor(text=["describe"], return_tensors="pt")
    result = SparrowDecoder(target.to(dtype), draft.to(dtype)).generate(**inputs, max_new_tokens=8)
    pair.cache_clear()
    assert result.stats.new_tokens <= 8
    assert result.sequences.shape[1] == inputs["input_ids"].shape[1] + result.stats.new_tokens
