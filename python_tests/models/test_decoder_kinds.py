"""Arguments of another kind altogether are named, before any work is done."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from decoding_cases import random_pair
from family_cases import text_only
from refusal_cases import question
from transformers import BatchFeature, GenerationConfig

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models import SparrowDecoder, load_draft, sparrow_generate
from sparrow_kernels.models.inputs import build_batch, build_inputs

SETTINGS: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
IDS = torch.tensor([[5, 6, 7]])


def decoder() -> SparrowDecoder:
    target, draft, _ = random_pair()
    return SparrowDecoder(target, draft)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"generator": 5}, "generator must be a torch.Generator, or one for each .*, got int"),
        ({"generator": [5]}, "generator must be a torch.Generator, .* got int"),
        ({"streamer": 5}, r"streamer must be one of transformers, with put\(\) .*, got int"),
        ({"observer": 5}, "observer must be called with each step's StepTrace, got int"),
        ({"cache": "x"}, "cache must be the cache of an earlier result, got str"),
        ({"past_key_values": ()}, "past_key_values must be the cache of an earlier .*, got tuple"),
        ({"input_ids": IDS.float()}, "input_ids must be an int64 tensor .*, got torch.float32"),
        ({"input_ids": [[5, 6]]}, 'int64 tensor of token ids, got list .*return_tensors="pt"'),
        ({"attention_mask": [[1, 1, 1]]}, "attention_mask must be a tensor, .*, got list"),
    ],
)
def test_arguments_of_another_type(given: dict[str, Any], message: str) -> None:
    for call in (decoder().generate, decoder().generate_plainly):
        with pytest.raises(TypeError, match=message):
            call(**{"input_ids": IDS, **given}, **SETTINGS)


@pytest.mark.parametrize("name", ["max_new_tokens", "num_return_sequences"])
@pytest.mark.parametrize("value", [2.5, "3", -1, 0])
def test_counts_that_are_none(name: str, value: Any) -> None:
    given = {**SETTINGS, "do_sample": True, name: value}
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got"):
        decoder().generate(IDS, **given)


def test_a_length_that_is_none_in_the_drop_in_form() -> None:
    target, draft, _ = random_pair()
    given: dict[str, Any] = {"custom_generate": sparrow_generate, "draft": draft}
    with pytest.raises(ValueError, match=r"max_length must be a whole .*, got 5\.5"):
        target.generate(IDS, max_new_tokens=2.5, do_sample=False, **given)


@pytest.mark.parametrize("name", ["recorded", "compile", "cuda_graph"])
def test_switches_are_on_or_off(name: str) -> None:
    target, draft, _ = random_pair()
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 'yes'"):
        SparrowDecoder(target, draft, **{name: "yes"})


def test_a_decoder_has_a_decoding_function_of_its_own() -> None:
    with pytest.raises(ValueError, match="custom_generate must be left out, got one for a decoder"):
        decoder().generate(IDS, custom_generate=sparrow_generate, **SETTINGS)


@pytest.mark.parametrize("path", [None, 3, torch.nn.Linear(1, 1)])
def test_what_is_no_path_is_no_draft(path: Any) -> None:
    with pytest.raises(TypeError, match=f"draft: .*, got {type(path).__name__} .load_draft takes"):
        load_draft(path, random_pair()[0])


@pytest.mark.parametrize("vocabulary", [50, "abc", [1.5]])
def test_a_vocabulary_is_ids(vocabulary: Any) -> None:
    with pytest.raises(TypeError, match="vocabulary must be the ids that may be drafted, got"):
        random_pair()[1].lighter(vocabulary=vocabulary)


def test_what_a_processor_returns_is_unpacked() -> None:
    for given in ({"input_ids": IDS}, BatchFeature({"input_ids": IDS})):
        with pytest.raises(TypeError, match=r"got (dict|BatchFeature) .*generate\(\*\*inputs\)"):
            decoder().generate(given, **SETTINGS)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["decoder", "drop-in"])
@pytest.mark.parametrize("shape", [(1, 2), (1, 4), (2, 3)])
def test_a_mask_of_other_tokens(form: str, shape: tuple[int, int]) -> None:
    target, draft, _ = random_pair()
    call = decoder().generate
    if form == "drop-in":
        call = partial(target.generate, custom_generate=sparrow_generate, draft=draft)
    mask = torch.ones(shape, dtype=torch.int64)
    mask[:, 0] = 0  # one without padding is left out by transformers
    said = rf"attention_mask must be \[1, 3\], as input_ids are, got \[{shape[0]}, {shape[1]}\]"
    with pytest.raises(ValueError, match=said):
        call(input_ids=IDS, attention_mask=mask, **SETTINGS)


@pytest.mark.parametrize("ids", [IDS[:0], IDS[:, :0], IDS[0]])
def test_no_request_and_no_token(ids: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"input_ids must be \[requests, tokens\], at least one"):
        decoder().generate(input_ids=ids, **SETTINGS)


def test_a_prompt_comes_by_position_too_as_in_generate() -> None:
    target = random_pair()[0]
    expected = target.generate(IDS, **SETTINGS)
    assert torch.equal(decoder().generate(IDS, **SETTINGS).sequences, expected)
    assert torch.equal(decoder().generate_plainly(IDS, **SETTINGS).sequences, expected)
    config = GenerationConfig(**SETTINGS)
    assert torch.equal(decoder().generate(IDS, config).sequences, expected)


def test_what_is_no_model_is_no_target() -> None:
    for use in (
        lambda: SparrowDecoder("there", random_pair()[1]),
        lambda: SparrowDraft.for_target("there"),  # type: ignore[arg-type]
        lambda: load_draft("here", torch.nn.Linear(2, 2)),
    ):
        with pytest.raises(TypeError, match="target must be a model of transformers, got"):
            use()


def test_what_wraps_a_target_for_training_is_told_from_it() -> None:
    target, draft, _ = random_pair()
    wrapper = torch.nn.DataParallel(target)
    with pytest.raises(TypeError, match=r"got DataParallel \(pass what it wraps: target\.module"):
        SparrowDecoder(wrapper, draft)
    SparrowDecoder(wrapper.module, draft)


def test_float64_is_refused_with_what_to_do() -> None:
    target = copy.deepcopy(random_pair()[0]).double()
    with pytest.raises(ValueError, match=r"got float64 in .*\(convert it: target.to\("):
        SparrowDecoder(target, random_pair()[1])


def test_a_misspelt_setting_of_a_draft_is_named() -> None:
    target = random_pair()[0]
    with pytest.raises(TypeError, match=r"got hiden_size \(did you mean hidden_size\?\)"):
        SparrowDraft.for_target(target, hiden_size=2)


@pytest.mark.parametrize("setting", ["attention_dropout", "module"])
def test_dropout_in_force_is_refused(setting: str) -> None:
    """Without it a model in training mode writes what it writes in evaluation."""
    dropout = {"attention_dropout": 0.1} if setting == "attention_dropout" else {}
    target = text_only("Llama", **dropout).target
    if setting == "module":
        target.model.layers[1].mlp.down_proj = torch.nn.Sequential(
            target.model.layers[1].mlp.down_proj, torch.nn.Dropout(0.1)
        )
    ours = SparrowDecoder(target, SparrowDraft.for_target(target), "6-5-1")
    expected = target.eval().generate(**question(), **SETTINGS)
    assert torch.equal(ours.generate(**question(), **SETTINGS).sequences, expected)
    with pytest.raises(ValueError, match=r"be without dropout, got .*0\.1 .*target.eval\(\)"):
        SparrowDecoder(target.train(), ours.draft, "6-5-1").generate(**question(), **SETTINGS)


def test_dropout_of_a_module_in_training_is_refused_in_a_model_that_is_not() -> None:
    """As an adapter's is, put into a model in evaluation."""
    target = text_only("Llama").target.eval()
    layer = target.model.layers[1].mlp
    layer.down_proj = torch.nn.Sequential(layer.down_proj, torch.nn.Dropout(0.1).train())
    ours = SparrowDecoder(target, SparrowDraft.for_target(target), "6-5-1")
    with pytest.raises(ValueError, match=r"be without dropout, got .*0\.1"):
        ours.generate(**question(), **SETTINGS)


def test_what_generate_refuses_too() -> None:
    with pytest.raises(ValueError, match="prefill_chunk_size must be a whole .*, got -1"):
        decoder().generate(IDS, prefill_chunk_size=-1, **SETTINGS)
    with pytest.raises(TypeError, match="generation_config must be a GenerationConfig, got dict"):
        decoder().generate(IDS, {"do_sample": False})  # type: ignore[arg-type]


def test_one_clip_is_no_sequence_of_clips() -> None:
    processor = random_pair()[2]
    for build in (build_inputs, build_batch):
        with pytest.raises(TypeError, match="clips must be a sequence of clips, got one str"):
            build(processor, "Why?", "clip.mp4")
        with pytest.raises(TypeError, match="question must be text, got list"):
            build(processor, ["Why?"], ["clip.mp4"])  # type: ignore[arg-type]


def test_a_streamer_for_a_batch_is_told_how_many_there_are() -> None:
    class Streamer:
        put = end = print

    both = {"input_ids": IDS.repeat(2, 1), "attention_mask": torch.ones((2, 3), dtype=torch.int64)}
    with pytest.raises(NotImplementedError, match="None for 2 requests, got 'Streamer'"):
        decoder().generate(**both, **SETTINGS, streamer=Streamer())
