"""Every argument of `generate`: served as plain decoding serves it, or refused by name."""

from __future__ import annotations

import queue
from functools import partial
from typing import Any

import pytest
import torch
from decoding_cases import prompt, random_pair
from transformers import GenerationConfig, TextIteratorStreamer

from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.decoding import step as step_module
from sparrow_kernels.models import SparrowDecoder, sparrow_generate
from sparrow_kernels.models import room as room_module
from sparrow_kernels.models.generate import plain_generate

NEW_TOKENS = 20


def inputs() -> dict[str, torch.Tensor]:
    return prompt(random_pair()[2], [8])


def plain(**settings: Any) -> torch.Tensor:
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **settings}
    return random_pair()[0].generate(**inputs(), **settings)


def ours(tree: Any = "9-2-4", **settings: Any) -> Any:
    target, draft, _ = random_pair()
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **settings}
    return SparrowDecoder(target, draft, tree).generate(**{**inputs(), **settings})


def drop_in(**settings: Any) -> torch.Tensor:
    target, draft, _ = random_pair()
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **settings}
    return target.generate(
        **{**inputs(), **settings}, custom_generate=sparrow_generate, draft=draft
    )


class TestStopStrings:
    """A token of the text is a stop string: one of whole characters, so not any place will do."""

    def stop_at(self, place: int) -> str:
        tokens = plain()[0, inputs()["input_ids"].shape[1] :]
        return random_pair()[2].tokenizer.decode(tokens[place : place + 1])

    @pytest.mark.parametrize("place", [4, 8, 15])
    def test_end_the_text_where_plain_decoding_ends_it(self, place: int) -> None:
        tokenizer = random_pair()[2].tokenizer
        settings = {"stop_strings": [self.stop_at(place)], "tokenizer": tokenizer}
        expected = plain(**settings)
        assert expected.shape[1] < plain().shape[1], "never stops: a weak case"
        assert torch.equal(ours(**settings).sequences, expected)

    def test_of_a_generation_config(self) -> None:
        target, _, processor = random_pair()
        config = GenerationConfig(stop_strings=self.stop_at(4), max_new_tokens=NEW_TOKENS)
        arguments = {"generation_config": config, "tokenizer": processor.tokenizer}
        expected = target.generate(**inputs(), **arguments)
        decoder = SparrowDecoder(target, random_pair()[1])
        assert torch.equal(decoder.generate(**inputs(), **arguments).sequences, expected)
        assert config.stop_strings == self.stop_at(4), "the caller's configuration was changed"
        assert not config.return_dict_in_generate

    def test_of_the_target_s_own_configuration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        target, _, processor = random_pair()
        monkeypatch.setattr(target.generation_config, "stop_strings", [self.stop_at(4)])
        expected = plain(tokenizer=processor.tokenizer)
        assert torch.equal(ours(tokenizer=processor.tokenizer).sequences, expected)

    def test_beside_criteria_of_the_caller(self) -> None:
        seen = []
        settings: dict[str, Any] = {
            "stop_strings": self.stop_at(8),
            "tokenizer": random_pair()[2].tokenizer,
            "stopping_criteria": [lambda ids, *_, **__: torch.tensor([seen.append(1) is not None])],
        }
        assert torch.equal(ours(**settings).sequences, plain(**settings))
        assert seen

    def test_without_a_tokenizer_are_refused(self) -> None:
        with pytest.raises(ValueError, match="tokenizer must be the target's where stop_strings"):
            ours(stop_strings="a")
        with pytest.raises(ValueError, match="stop strings"):  # transformers' own words
            drop_in(stop_strings="a", tokenizer=random_pair()[2].tokenizer)


class TestStreamers:
    def test_of_the_drop_in_form_are_refused_and_ended(self) -> None:
        """Who waits for text must not wait for ever."""
        streamer = TextIteratorStreamer(random_pair()[2].tokenizer, timeout=5)
        with pytest.raises(NotImplementedError, match="streamer must be bound to it"):
            drop_in(streamer=streamer)
        try:
            assert len(list(streamer)) <= 2  # the prompt, at most
        except queue.Empty:
            pytest.fail("the streamer was never ended")

    def test_the_ways_that_the_refusal_names_lead_on(self) -> None:
        target, draft, processor = random_pair()
        texts = []
        for call in (
            lambda s: ours(streamer=s),
            lambda s: target.generate(
                **inputs(),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                custom_generate=partial(sparrow_generate, streamer=s, draft=draft),
            ),
            lambda s: plain(streamer=s),
        ):
            streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=5)
            call(streamer)
            texts.append("".join(streamer))
        assert texts[0] == texts[1] == texts[2] != ""


MODES = {
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "dola_layers": {"dola_layers": "low"},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
    "assistant_early_exit": {"assistant_early_exit": 1},
    "cache_implementation": {"cache_implementation": "static"},
    "num_beams": {"num_beams": 3},
    "output_hidden_states": {"output_hidden_states": True},
    "guidance_scale": {"guidance_scale": 0.0},
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("form", [ours, drop_in])
def test_other_modes_are_refused_by_name(form: Any, name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"sparrow_generate: {name} must be"):
        form(**MODES[name])


@pytest.mark.parametrize("form", [ours, drop_in])
def test_an_assistant_model_is_refused(form: Any) -> None:
    with pytest.raises(NotImplementedError, match="assistant_model must be None, got 'Qwen2_5_VL"):
        form(assistant_model=random_pair()[0])


def test_a_mode_of_the_target_s_own_configuration_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random_pair()[0].generation_config, "prompt_lookup_num_tokens", 3)
    with pytest.raises(NotImplementedError, match="prompt_lookup_num_tokens must be unset, got 3"):
        ours()


@pytest.mark.parametrize(
    "settings",
    [
        {"cache_implementation": "dynamic"},
        {"use_cache": False},
        {"use_cache": True},
        {"num_beams": 1},
        {"penalty_alpha": 0.0},
        {"guidance_scale": 1.0},
        {"return_dict_in_generate": True},
        {"eos_token_id": 10**6},
        {"eos_token_id": [7, 10**6]},
        {"eos_token_id": 390},
        {"eos_token_id": []},
        {"max_length": 80, "max_new_tokens": None},
        {"max_time": 100.0},
        {"logits_to_keep": 1},
    ],
    ids=str,
)
def test_what_changes_nothing_or_little_is_served(settings: dict[str, Any]) -> None:
    expected = plain(**settings)
    expected = getattr(expected, "sequences", expected)
    assert torch.equal(ours(**settings).sequences, expected)
    result = drop_in(**settings)
    assert torch.equal(getattr(result, "sequences", result), expected)


def test_embeddings_are_refused() -> None:
    target = random_pair()[0]
    embeddings = target.get_input_embeddings()(inputs()["input_ids"])
    for extra in ({}, {"input_ids": None}):
        with pytest.raises(NotImplementedError, match="inputs_embeds must be None"):
            ours(inputs_embeds=embeddings, **extra)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["speculative", "plain loop"])
def test_room_is_made_while_the_text_grows(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that no memory could hold, and buffers that move three times on the way."""
    monkeypatch.setattr(room_module, "_FIRST_NEW_TOKENS", 8)
    target, draft, processor = random_pair()
    short = prompt(processor, [], "a")
    length = short["input_ids"].shape[1]
    expected = target.generate(**short, max_new_tokens=150, do_sample=False, eos_token_id=10**6)

    def stop(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return torch.tensor([ids.shape[1] == length + 150])

    decoder = SparrowDecoder(target, draft, "9-2-4")
    call = decoder.generate if form == "speculative" else decoder.generate_plainly
    result = call(
        **short,
        max_new_tokens=10**9,
        do_sample=False,
        eos_token_id=10**6,
        stopping_criteria=[stop],
    )
    assert torch.equal(result.sequences, expected)


class TestTrees:
    @pytest.mark.parametrize("tree", ["6-5-1", "4x2x1", TreeConfig(9, 2, 4), None])
    def test_may_be_written(self, tree: Any) -> None:
        assert torch.equal(ours(tree).sequences, plain())
        assert torch.equal(drop_in(tree=tree), plain())

    @pytest.mark.parametrize("tree", [(6, 5, 1), 30, {"total": 6}, b"6-5-1"])
    def test_else_are_refused(self, tree: Any) -> None:
        for form in (ours, drop_in):
            with pytest.raises(TypeError, match=r"tree must be a TreeConfig, or text such as"):
                form(tree=tree)

    def test_wider_than_the_vocabulary_are_refused(self) -> None:
        for tree in ("30-2-1000", "1000x2"):
            with pytest.raises(ValueError, match=f"at most 390 children a node, .* got {tree}"):
                ours(tree)

    def test_written_wrongly_are_refused(self) -> None:
        with pytest.raises(ValueError, match="tree must be total-depth-width"):
            ours("6-5")


def test_a_draft_must_be_one() -> None:
    target = random_pair()[0]
    with pytest.raises(TypeError, match="draft must be a SparrowDraft, got str"):
        SparrowDecoder(target, "my-draft")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="draft must be a SparrowDraft, got str"):
        target.generate(**inputs(), custom_generate=sparrow_generate, draft="my-draft")


def test_the_plain_loop_refuses_the_same() -> None:
    target = random_pair()[0]
    with pytest.raises(NotImplementedError, match="penalty_alpha must be unset"):
        target.generate(
            **inputs(), custom_generate=plain_generate, **MODES["penalty_alpha"], max_new_tokens=3
        )


def test_drafting_goes_on_behind_a_stop_id_out_of_the_vocabulary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = []
    real = step_module.grow_tree
    monkeypatch.setattr(step_module, "grow_tree", lambda *a: (steps.append(1), real(*a))[1])
    assert ours(eos_token_id=10**6).stats.new_tokens == NEW_TOKENS
    assert steps
