"""Batches: every row ends by itself, samples by itself, and leaves what plain decoding leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_cases import VOCABULARY, draft_for, prompts, tiny, turns
from mimic_draft import mimic
from transformers import StoppingCriteria, StoppingCriteriaList

from sparrow_kernels.models import SparrowDecoder, sparrow_generate
from sparrow_kernels.models.bridge.names import cache_keyword

NAME = "qwen2_5_vl"
CHATS = [turns(8, "What happens?"), turns("Why?"), turns(None, "And here, in this one?")]
SETTINGS: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": 319}


def inputs(*chats: list[Any]) -> dict[str, Any]:
    return prompts(tiny(NAME).processor, *(chats or CHATS))


def decoder(tree: str = "9-4-2") -> SparrowDecoder:
    return SparrowDecoder(tiny(NAME).target, draft_for(NAME), tree)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """New tokens `[B, n]` of the batch where nothing stops it; drafts know them."""
    text = tiny(NAME).target.generate(**inputs(), **SETTINGS)
    mimic(monkeypatch, text, VOCABULARY)
    return text[:, inputs()["input_ids"].shape[1] :]


class _StopsAfter(StoppingCriteria):
    """Each row at its own token."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> torch.Tensor:
        return torch.isin(input_ids[:, -1], torch.tensor(self.tokens))


@pytest.mark.parametrize("how", ["stop ids", "criterion", "length", "stop string"])
def test_rows_that_end_in_mid_path_end_as_plain_decoding_does(how: str, free: Any) -> None:
    """What is left, the text, the cache's lengths and the counts, is that of the plain loop."""
    stops = [int(free[0, 6]), int(free[1, 11])]
    settings: dict[str, Any] = dict(SETTINGS)
    if how == "stop ids":
        settings["eos_token_id"] = stops
    elif how == "criterion":
        settings["stopping_criteria"] = StoppingCriteriaList([_StopsAfter(stops)])
    elif how == "length":
        settings["max_new_tokens"] = 7
    else:
        tokenizer = tiny(NAME).processor.tokenizer
        words = (tokenizer.decode(token) for token in free[0, 6:])
        string = next(word for word in words if word)  # it knows fewer ids than the model
        settings |= {"stop_strings": [string], "tokenizer": tokenizer}
    plain = tiny(NAME).target.generate(**inputs(), **settings)
    ours = decoder()
    runs = [ours.generate(**inputs(), **settings), ours.generate_plainly(**inputs(), **settings)]
    for run in runs:
        assert torch.equal(run.sequences, plain)
    spoken, plainly = runs
    assert spoken.cache.prefix_lens.tolist() == plainly.cache.prefix_lens.tolist()
    assert spoken.stats.new_tokens == plainly.stats.new_tokens
    for row in spoken.stats.rows:
        assert sum(k * n for k, n in enumerate(row.histogram)) == row.new_tokens - 1
        assert sum(row.histogram) == row.target_calls
    assert any(sum(row.histogram[2:]) for row in spoken.stats.rows), "a weak case"
    again = ours.generate(**inputs(), **settings)
    assert torch.equal(again.sequences, plain)
    assert again.stats.histogram == spoken.stats.histogram


@pytest.mark.slow
@pytest.mark.parametrize("tree", ["9-4-2", "4x2x1"])
def test_a_row_does_not_know_its_neighbours(tree: str) -> None:
    settings = {**SETTINGS, "do_sample": True, "temperature": 1.3, "top_p": 0.9}

    def lengths(result: Any) -> list[int]:
        return [row.new_tokens for row in result.stats.rows]

    def sampled(rows: list[int], **other: Any) -> list[list[int]]:
        given = inputs(*(CHATS[row] for row in rows))
        generators = [torch.Generator().manual_seed(row) for row in rows]
        result = decoder(tree).generate(**given, **settings, **other, generator=generators)
        new = result.sequences[:, given["input_ids"].shape[1] :].tolist()
        return [row[:length] for row, length in zip(new, lengths(result), strict=True)]

    together = sampled([0, 1, 2])
    assert sampled([0, 1, 2]) == together
    for row in range(3):
        assert sampled([row]) == [together[row]]
    history = {"repetition_penalty": 1.3}
    together = sampled([0, 1, 2], **history)
    assert sampled([2], **history) == [together[2]]


def test_as_many_generators_as_requests() -> None:
    with pytest.raises(ValueError, match="one for each of 3 requests, got 2"):
        decoder().generate(**inputs(), **SETTINGS, generator=[torch.Generator()] * 2)


def test_several_texts_of_a_prompt_take_one_prefill() -> None:
    target = tiny(NAME).target
    rows: list[int] = []
    layer = target.model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(
        lambda module, arguments: rows.append(arguments[0].shape[1])
    )
    given = inputs(CHATS[0])
    settings = {**SETTINGS, "do_sample": True, "temperature": 1.5}
    try:
        torch.manual_seed(1)
        result = decoder("6-5-1").generate(**given, **settings, num_return_sequences=3)
    finally:
        hook.remove()
    prompt = given["input_ids"].shape[1]
    assert result.sequences.shape[0] == 3
    assert len(result.sequences[:, prompt:].unique(dim=0)) == 3
    assert [count for count in rows if count == prompt] == [prompt]
    assert all(count == 6 for count in rows[1:])


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.3}, {"temperature": 0.7}])
def test_scores_and_logits_are_those_of_generate(settings: dict[str, Any], free: Any) -> None:
    settings = {**SETTINGS, "eos_token_id": int(free[1, 8]), **settings}
    if "temperature" in settings:
        settings |= {"do_sample": True, "top_k": 1}
    asked = {"output_scores": True, "output_logits": True, "return_dict_in_generate": True}
    theirs = tiny(NAME).target.generate(**inputs(), **settings, **asked)
    drop_in = {"custom_generate": sparrow_generate, "draft": draft_for(NAME)}
    for ours in (
        decoder().generate(**inputs(), **settings, **asked),
        decoder().generate_plainly(**inputs(), **settings, **asked),
        tiny(NAME).target.generate(**inputs(), **settings, **asked, **drop_in),
    ):
        assert torch.equal(ours.sequences, theirs.sequences)
        for name in ("scores", "logits"):
            got, wanted = getattr(ours, name), getattr(theirs, name)
            assert len(got) == len(wanted)
            for place, (a, b) in enumerate(zip(got, wanted, strict=True)):
                for request, length in enumerate(ours.stats.new_tokens):
                    expected = b[request] if place < length else torch.zeros_like(b[request])
                    torch.testing.assert_close(a[request], expected, rtol=1e-3, atol=1e-3)
    assert decoder().generate(**inputs(), **settings).scores is None


class TestAnEarlierCache:
    QUESTION, OTHER = turns(24, "What happens?"), turns(24, "What happens then, and why?")

    def test_is_not_run_again(self) -> None:
        ours = decoder()
        first = ours.generate(**inputs(self.QUESTION), **SETTINGS)
        fresh = decoder().generate(**inputs(self.OTHER), **SETTINGS)
        second = ours.generate(**inputs(self.OTHER), **SETTINGS, cache=first.cache)
        assert torch.equal(second.sequences, fresh.sequences)
        assert second.stats.histogram == fresh.stats.histogram
        visual = int((inputs(self.OTHER)["input_ids"] == ours.target.config.video_token_id).sum())
        assert second.stats.reused_slots > visual
        third = ours.generate(**inputs(self.QUESTION), **SETTINGS, cache=second.cache)
        assert torch.equal(third.sequences, first.sequences)

    def test_of_another_clip_is_run_again(self) -> None:
        ours, given = decoder(), inputs(self.QUESTION)
        first = ours.generate(**given, **SETTINGS)
        other = {**given, "pixel_values_videos": given["pixel_values_videos"].flip(0)}
        fresh = decoder().generate(**other, **SETTINGS)
        second = ours.generate(**other, **SETTINGS, cache=first.cache)
        assert torch.equal(second.sequences, fresh.sequences)
        assert second.stats.reused_slots == 0

    def test_serves_a_batch_of_questions_and_a_drop_in_call(self) -> None:
        target, ours = tiny(NAME).target, decoder()
        first = ours.generate(**inputs(self.QUESTION), **SETTINGS)
        given = inputs(self.OTHER, CHATS[1], self.QUESTION)
        batch = ours.generate(**given, **SETTINGS, cache=first.cache)
        assert torch.equal(batch.sequences, decoder().generate(**given, **SETTINGS).sequences)
        reused = batch.stats.reused_slots
        assert reused[0] > 20 and reused[1] == 0 and reused[2] > 20
        drop_in = {"custom_generate": sparrow_generate, "draft": draft_for(NAME)}
        drop_in |= {"return_dict_in_generate": True, **SETTINGS}
        kept = target.generate(**inputs(self.QUESTION), **drop_in)
        keyword = {cache_keyword(target): kept.cache}
        again = target.generate(**inputs(self.OTHER), **drop_in, **keyword)
        assert again.stats.reused_slots > 20
        fresh = decoder().generate(**inputs(self.OTHER), **SETTINGS)
        assert torch.equal(again.sequences, fresh.sequences)

    def test_that_another_call_has_written_to_is_no_longer_that(self) -> None:
        ours = decoder()
        first = ours.generate(**inputs(self.QUESTION), **SETTINGS)
        ours.generate(**inputs(CHATS[1]), **SETTINGS)  # in the same buffers
        second = ours.generate(**inputs(self.OTHER), **SETTINGS, cache=first.cache)
        assert second.stats.reused_slots == 0
        fresh = decoder().generate(**inputs(self.OTHER), **SETTINGS)
        assert torch.equal(second.sequences, fresh.sequences)

    def test_of_weights_that_were_written_to_since_is_run_again(self) -> None:
        ours = decoder()
        first = ours.generate(**inputs(self.QUESTION), **SETTINGS)
        weight = ours.target.model.language_model.layers[0].mlp.down_proj.weight
        before = weight.clone()
        try:
            with torch.no_grad():
                weight.mul_(-1)
            second = ours.generate(**inputs(self.OTHER), **SETTINGS, cache=first.cache)
            fresh = decoder().generate(**inputs(self.OTHER), **SETTINGS)
        finally:
            with torch.no_grad():
                weight.copy_(before)
        assert torch.equal(second.sequences, fresh.sequences)
        assert second.stats.reused_slots == 0

    def test_in_use_by_another_call_is_left_alone(self) -> None:
        ours = decoder()
        first = ours.generate(**inputs(self.QUESTION), **SETTINGS)
        with first.cache.workspace.lock:
            second = ours.generate(**inputs(self.OTHER), **SETTINGS, cache=first.cache)
        assert second.stats.reused_slots == 0
        fresh = decoder().generate(**inputs(self.OTHER), **SETTINGS)
        assert torch.equal(second.sequences, fresh.sequences)


@pytest.mark.parametrize("new_tokens", [2, 3, 5])
def test_a_walk_that_the_length_ends_in_mid_tree(new_tokens: int, free: Any) -> None:
    """Processors that read the ids are asked no further than the text goes."""
    settings = {**SETTINGS, "max_new_tokens": new_tokens, "no_repeat_ngram_size": 9}
    plain = tiny(NAME).target.generate(**inputs(), **settings)
    result = decoder().generate(**inputs(), **settings)
    assert torch.equal(result.sequences, plain)
