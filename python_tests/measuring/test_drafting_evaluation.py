"""The control of the evaluation: decoding one clip while the draft is fed another's states."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.decoding.stats import DecodeStats, RequestStats
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.embedded.clips import random_script, render
from sparrow_kernels.measuring.evaluation import (
    OtherClipsStates,
    emitted_with_states_of,
    mean_emitted,
)
from sparrow_kernels.models.decoder import SparrowDecoder
from sparrow_kernels.training.small_target import build_processor, build_target, clip_inputs

TREE = TreeConfig(25, 3, 8)


@cache
def pair() -> tuple[Any, SparrowDraft, Any]:
    """An untrained target of two layers, an untrained draft, and a processor."""
    processor = build_processor()
    target = build_target(len(processor.tokenizer), layers=2, seed=3).eval()
    with torch.no_grad():
        for parameter in target.model.language_model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(2.0)
    torch.manual_seed(5)
    return target, SparrowDraft.for_target(target).eval(), processor


def inputs_of(seed: int, seconds: int = 4) -> dict[str, Any]:
    frames = render(random_script(1, seconds, 2, seed))
    return dict(clip_inputs(pair()[2], frames, 2.0, "What happens?"))


def test_fed_its_own_clip_the_control_is_the_decoder() -> None:
    target, draft, _ = pair()
    inputs = inputs_of(1)
    ours = emitted_with_states_of(target, draft, TREE, inputs, inputs, max_new_tokens=40)
    decoder = SparrowDecoder(target, draft, TREE)
    theirs = decoder.generate(**inputs, max_new_tokens=40).stats
    assert theirs.histogram[2:], "an untrained draft of this width must be right now and then"
    assert ours.histogram == theirs.histogram
    assert (ours.new_tokens, ours.target_calls) == (theirs.new_tokens, theirs.target_calls)


def test_another_clip_changes_what_the_draft_is_fed_and_not_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every step commits the own clip's tokens; the states handed on are the other clip's."""
    target, draft, _ = pair()
    own, other = inputs_of(1), inputs_of(2)
    plain = target.generate(**own, max_new_tokens=30, do_sample=False)
    committed: list[int] = []
    differs: list[bool] = []
    original = OtherClipsStates.verify

    def spy(self: OtherClipsStates, tokens: Any, layout: Any) -> Any:
        verified = original(self, tokens, layout)
        committed.append(int(tokens[0, 0]))
        own_logits = target.lm_head(verified.states[0])
        differs.append(not torch.allclose(own_logits, verified.logits, atol=1e-3))
        return verified

    monkeypatch.setattr(OtherClipsStates, "verify", spy)
    stats = emitted_with_states_of(target, draft, TREE, own, other, max_new_tokens=30)
    assert differs == [True] * stats.target_calls
    emitted = plain[0, own["input_ids"].shape[1] :].tolist()
    # The roots of the steps, in order, lie along the plain text.
    at = 0
    for root in committed:
        at = emitted.index(root, at)


def test_prompts_must_be_the_same() -> None:
    target, draft, _ = pair()
    with pytest.raises(ValueError, match="other: must have the prompt of own"):
        emitted_with_states_of(target, draft, TREE, inputs_of(1), inputs_of(2, seconds=5))


def test_mean_emitted_weighs_runs_by_their_target_calls() -> None:
    runs = [DecodeStats(rows=[RequestStats(*counts)]) for counts in ((11, 2), (9, 8))]
    assert mean_emitted(runs) == pytest.approx(18 / 10)
