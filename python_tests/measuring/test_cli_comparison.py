"""Comparing decoders: rotated order, medians, raw truth about the text, and near ties."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")
pytest.importorskip("PIL")

from decoding_cases import prompt, random_pair, video

from sparrow_kernels import SparrowDecoder
from sparrow_kernels.decoding.stats import PHASES
from sparrow_kernels.measuring.comparison import (
    WAYS,
    Comparison,
    Run,
    compare,
    first_difference,
)
from sparrow_kernels.measuring.near_tie import is_near_tie
from sparrow_kernels.models.inputs import build_batch
from sparrow_kernels.models.progress import prefill_progress
from sparrow_kernels.models.target import TargetState
from sparrow_kernels.video.clip import Clip

NEW = 9


@pytest.fixture(scope="module")
def decoder() -> SparrowDecoder:
    target, draft, _ = random_pair()
    return SparrowDecoder(target, draft)


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    return prompt(random_pair()[2], [4])


def made_up_run(tokens: list[int], decode: float, end_to_end: float) -> Run:
    seconds = {"decode": decode, "end_to_end": end_to_end} | dict.fromkeys(PHASES, decode / 10)
    return Run(torch.tensor([5, 5, *tokens]), 2, seconds, cache_bytes=1)


def test_speedups_are_ratios_of_medians() -> None:
    comparison = Comparison()
    tokens = [1, 2, 3, 4, 5]
    for way, decode in (("sparrow", [1, 9, 2]), ("cached", [4, 5, 50]), ("generate", [10, 1, 11])):
        comparison.runs[way] = [made_up_run(tokens, d, d + 1) for d in decode]
    assert comparison.decode_speedup("cached") == pytest.approx(5 / 2)
    assert comparison.decode_speedup("generate") == pytest.approx(10 / 2)
    assert comparison.end_to_end_speedup() == pytest.approx(11 / 3)
    assert comparison.end_to_end_speedup("cached") == pytest.approx(6 / 3)
    assert comparison.decode_spread("generate") == pytest.approx((4.6 / 6.2, 10.6 / 1.4))
    assert comparison.end_to_end_spread("cached") == pytest.approx((5.4 / 7.2, 33 / 2.4))
    assert comparison.phases() == dict.fromkeys(PHASES, pytest.approx(0.2))


def test_decoding_is_compared_a_token_where_lengths_differ() -> None:
    comparison = Comparison()
    comparison.runs["sparrow"] = [made_up_run([1, 2, 3], 2.0, 3.0)]
    comparison.runs["cached"] = [made_up_run([1, 2, 3, 4, 5], 8.0, 9.0)]
    assert comparison.decode_speedup("cached") == pytest.approx((8 / 4) / (2 / 2))
    comparison.runs["cached"] = [made_up_run([1], 0.0, 9.0)]
    assert comparison.decode_speedup("cached") is None


@pytest.mark.parametrize(
    "ours, theirs, at",
    [
        ([1, 2], [1, 2], None),
        ([1, 2], [1, 3], 1),
        ([1], [1, 2], 1),
        ([2, 1], [1], 0),
        ([], [], None),
    ],
)
def test_first_difference(ours: list[int], theirs: list[int], at: int | None) -> None:
    assert first_difference(torch.tensor(ours), torch.tensor(theirs)) == at


def test_every_way_runs_in_rotated_order_and_agrees(
    decoder: SparrowDecoder, inputs: dict[str, Any]
) -> None:
    order: list[tuple[str, int]] = []
    comparison = compare(
        decoder,
        inputs,
        repeats=3,
        rotation=1,
        on_run=lambda way, repeat: order.append((way, repeat)),
        max_new_tokens=NEW,
        do_sample=False,
    )
    sparrow, cached, generate = WAYS
    assert [way for way, _ in order] == [
        *(cached, generate, sparrow),
        *(generate, sparrow, cached),
        *(sparrow, cached, generate),
    ]
    assert comparison.identical is True and comparison.near_tie_at == []
    config = decoder.target.config.get_text_config()
    slot = 2 * config.num_hidden_layers * config.num_key_value_heads * 32 * 4
    prompt_length = inputs["input_ids"].shape[1]
    for way, runs in comparison.runs.items():
        assert len(runs) == 3
        for run in runs:
            assert len(run.tokens) == NEW
            assert 0 < run.seconds["decode"] < run.seconds["end_to_end"]
            assert (run.stats is None) == (way == "generate")
    # transformers caches what it has decoded; ours allocate room for the budget and a tree.
    assert comparison.runs[generate][0].cache_bytes == slot * (prompt_length + NEW - 1)
    assert comparison.runs[cached][0].cache_bytes == slot * (prompt_length + NEW + 1)
    target_bytes = slot * (prompt_length + NEW + decoder.tree.total)
    visual = int((inputs["input_ids"] == decoder.target.config.video_token_id).sum())
    draft_slots = prompt_length - visual - 1 + NEW + decoder.tree.max_path
    draft_slots += decoder.tree.draft_slots
    per_draft_slot = slot // config.num_hidden_layers
    assert comparison.runs[sparrow][0].cache_bytes == target_bytes + per_draft_slot * draft_slots
    assert not any(m._forward_pre_hooks for m in decoder.target.modules())


def test_a_difference_is_never_hidden(
    decoder: SparrowDecoder, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = decoder.generate

    def wrong(**arguments: Any) -> Any:
        result = honest(**arguments)
        result.sequences[0, -2] += 1
        return result

    monkeypatch.setattr(decoder, "generate", wrong)
    comparison = compare(decoder, inputs, max_new_tokens=NEW, do_sample=False)
    assert comparison.identical is False
    assert comparison.near_tie_at == []


def test_sampled_texts_are_not_compared(decoder: SparrowDecoder, inputs: dict[str, Any]) -> None:
    comparison = compare(decoder, inputs, max_new_tokens=4, do_sample=True, temperature=0.7)
    assert comparison.identical is None
    assert (comparison.decode_speedup("generate") or 0) > 0


def test_repeats_below_one_are_refused(decoder: SparrowDecoder, inputs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        compare(decoder, inputs, repeats=0)


@pytest.mark.parametrize("share, admitted", [(0.9, False), (1.1, True)])
def test_a_near_tie_is_one_within_four_times_the_rounding(
    decoder: SparrowDecoder,
    inputs: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    admitted: bool,
) -> None:
    """Make a verify round by `share` of a quarter of the gap, and see on which side it falls."""
    at = 5
    target: Any = decoder.target
    plain = target.generate(
        **inputs,
        max_new_tokens=at + 1,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = plain.logits[at][0].topk(2).values
    gap = float(best[0] - best[1])
    assert gap > 1e-3  # float32 itself rounds far below this
    tokens = plain.sequences[0, inputs["input_ids"].shape[1] :]
    assert not is_near_tie(decoder, inputs, tokens, at, max_new_tokens=NEW)

    honest = TargetState.verify

    def rounded(self: TargetState, drafted: Tensor, layout: Any) -> Any:
        verified = honest(self, drafted, layout)
        if drafted.shape[1] > 1:
            verified.logits[..., 3] += share * gap / 4
        return verified

    monkeypatch.setattr(TargetState, "verify", rounded)
    assert is_near_tie(decoder, inputs, tokens, at, max_new_tokens=NEW) is admitted


class TestProgress:
    def test_counts_every_block_and_layer_then_leaves(
        self, decoder: SparrowDecoder, inputs: dict[str, Any]
    ) -> None:
        seen: list[tuple[int, int]] = []
        with prefill_progress(decoder.target, lambda *now: seen.append(now)):
            decoder.generate(**inputs, max_new_tokens=3, do_sample=False)
        # Two vision blocks, two decoder layers, each once although three tokens were decoded.
        assert seen == [(done, 4) for done in range(5)]

    def test_a_batch_is_done_when_its_last_prompt_is(self, decoder: SparrowDecoder) -> None:
        clips = [Clip(torch.from_numpy(video(frames)), Fraction(2)) for frames in (4, 8)]
        inputs = build_batch(random_pair()[2], "describe the video", clips)
        seen: list[tuple[int, int]] = []
        with prefill_progress(decoder.target, lambda *now: seen.append(now), prompts=2):
            decoder.generate(**inputs, max_new_tokens=3, do_sample=False)
            assert not any(module._forward_hooks for module in decoder.target.modules())
        assert seen == [(done, 6) for done in range(7)]

    def test_hooks_go_when_the_prefill_is_cut_short(
        self, decoder: SparrowDecoder, inputs: dict[str, Any]
    ) -> None:
        def interrupt(done: int, total: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), prefill_progress(decoder.target, interrupt):
            decoder.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert not any(module._forward_hooks for module in decoder.target.modules())
        assert decoder.target.config.get_text_config()._attn_implementation != "sparrow"
