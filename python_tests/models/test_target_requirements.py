"""Targets whose text speculation would change are refused, in words that say what is needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from family_cases import draft_for, prompts, text_only, tiny, turns
from refusal_cases import FULL, PAGE, decoded, question
from tiny_parts import text_settings, tokenizer

from sparrow_kernels.drafting import SparrowDraft, requirements
from sparrow_kernels.drafting.families import FAMILIES
from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.pair import EMBEDDED_WEIGHTS, check_embedded_draft, load_target
from sparrow_kernels.models.prompt import take_prompts
from sparrow_kernels.video_shim import unavailable

import transformers as hf  # isort: skip  (after sparrow_kernels: the shim must come first)

ONE = torch.ones(1)
SERVED = f"served: {', '.join(sorted(FAMILIES))}"
for_target = SparrowDraft.for_target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Gemma2", {}, "got sliding_attention layers in Gemma2ForCausalLM of family 'gemma2'"),
        ("Mistral", {}, r"got sliding_window=4096 in Mistral.*sliding_window=None"),
        ("Phi3", {"sliding_window": 8}, "got sliding_window=8"),
        ("Mamba", {}, "full attention in every layer, got linear_attention layers"),
        ("Qwen3Next", {"num_hidden_layers": 4}, "got linear_attention layers"),
        ("Lfm2", {"layer_types": ["conv", "full_attention", "conv"]}, "got conv layers"),
        ("Falcon", {}, "attention from transformers' AttentionInterface, got attention of its own"),
        ("Gemma2", FULL, "its logits from its LM head unaltered, got final_logit_softcapping=30"),
        ("Cohere", {}, "got logit_scale=0.0625"),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rotate a token by its own position alone, got rope_type='dynamic'",
        ),
    ],
)
def test_a_model_that_says_what_it_is(kind: str, settings: dict[str, Any], message: str) -> None:
    target = text_only(kind, **settings).target
    for use in (lambda: SparrowDecoder(target, draft_for("Llama")), lambda: for_target(target)):
        with pytest.raises(ValueError, match=f"^target must .*{message}.*{SERVED}, .*{PAGE}"):
            use()


ALTERED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier",
           "output_multiplier", "output_multiplier_scale")  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "dtype", "message"),
    [
        *(({name: 0.5}, torch.float32, f"unaltered, got {name}=0.5") for name in ALTERED),
        *(
            ({"rope_parameters": {"rope_type": kind}}, torch.float32, f"got rope_type='{kind}'")
            for kind in ("dynamic", "longrope")
        ),
        ({}, torch.float64, r"of float32, bfloat16 or float16, got float64 .*target\.to\("),
    ],
)
def test_what_a_configuration_says_by_any_of_its_names(
    settings: dict[str, Any], dtype: torch.dtype, message: str
) -> None:
    def asked(settings: dict[str, Any], dtype: torch.dtype) -> None:
        config = SimpleNamespace(model_type="a-model", **settings)
        model = SimpleNamespace(config=config, dtype=dtype, _supports_attention_backend=True)
        requirements.check_target(model, config)

    with pytest.raises(ValueError, match=f"^target must .*{message}"):
        asked(settings, dtype)
    # As a configuration says that there is none of it.
    asked(dict.fromkeys(settings) | {name: 1 for name in settings if name in ALTERED}, ONE.dtype)


def test_a_target_without_a_draft_is_held_against_the_embedded_one(tmp_path: Path) -> None:
    check_embedded_draft(EMBEDDED_WEIGHTS / "target")
    check_embedded_draft(EMBEDDED_WEIGHTS / "harder" / "target")
    config = hf.AutoConfig.from_pretrained(EMBEDDED_WEIGHTS / "target")
    config.get_text_config().vocab_size = 400
    config.save_pretrained(tmp_path)  # there is nothing else
    with pytest.raises(
        ValueError, match="got none, and the embedded one must .* vocabulary 390, target"
    ):
        check_embedded_draft(tmp_path)
    hf.AutoConfig.for_model("t5").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="target must generate text with a decoder alone, got"):
        check_embedded_draft(tmp_path)


def test_a_directory_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    window = f"use_sliding_window=False .*{SERVED}, .*and models with one position"
    for config, message in [
        (hf.Gemma2Config(**text_settings()), f"got sliding_attention layers .*{window}"),
        (hf.T5Config(), "with a decoder alone, got family 't5' .*served: "),
        (hf.MambaConfig(num_hidden_layers=1, hidden_size=32), "linear_attention layers .*served: "),
    ]:
        config.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=message):
            load_target(tmp_path)


@pytest.mark.parametrize("sees", [True, False])
def test_a_directory_without_a_processor(sees: bool, tmp_path: Path) -> None:
    if sees and (lacking := unavailable()) is not None:
        pytest.skip(f"torchvision is asked for first: {lacking}")
    target = (tiny("qwen2_5_vl") if sees else text_only("Llama")).target
    target.save_pretrained(tmp_path)
    what = "processor" if sees else "tokenizer"
    with pytest.raises(ValueError, match=f"must have its {what} beside its weights.*{tmp_path}"):
        load_target(tmp_path)


def test_a_state_that_cannot_be_taken_back() -> None:
    """Where layers have kinds by another name."""
    target = text_only("Llama").target
    type(target)._is_stateful, before = True, type(target)._is_stateful
    try:
        with pytest.raises(ValueError, match="got a recurrent state, which no step can take back"):
            Parts(target)
    finally:
        type(target)._is_stateful = before


def test_encoders_with_decoders() -> None:
    config = hf.T5Config(vocab_size=320, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    target = hf.T5ForConditionalGeneration(config)
    with pytest.raises(ValueError, match="have a decoder only, got an encoder and a decoder in T5"):
        SparrowDecoder(target, draft_for("Llama"))


def test_a_model_without_an_lm_head() -> None:
    target = hf.LlamaModel(hf.LlamaConfig(**text_settings()))
    with pytest.raises(ValueError, match=f"an LM head over a base model, got LlamaModel.*{PAGE}"):
        Parts(target)


def test_positions_of_an_unknown_family() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    target = hf.PaddleOCRVLForConditionalGeneration(
        hf.PaddleOCRVLConfig(
            text_config=text_settings(rope_parameters=rope, head_dim=16),
            vision_config={
                **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
                **{"num_attention_heads": 2, "image_size": 56},
            },
        )
    )
    with pytest.raises(ValueError, match=f"axes are known, got 'paddleocr_vl'.*qwen2_vl.*{PAGE}"):
        Parts(target)


@pytest.mark.parametrize(
    ("kind", "settings", "asked"),
    [
        ("Gemma2", {**FULL, "final_logit_softcapping": None}, "softcap from Gemma2Attention"),
        (
            "GptOss",
            {**FULL, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1},
            "s_aux from GptOssAttention",
        ),
        ("Gemma", {"use_bidirectional_attention": True}, "is_causal=False from GemmaAttention"),
        ("Llama", {"is_causal": False}, "a mask that is not causal from LlamaAttention"),
    ],
)
def test_attention_of_another_kind(kind: str, settings: dict[str, Any], asked: str) -> None:
    target = text_only(kind, **settings).target
    message = f"^target must attend with causal softmax alone, got {asked}.*{PAGE}"
    with pytest.raises(NotImplementedError, match=message):
        decoded(target, question())


def test_masks_that_no_layer_uses_do_no_harm() -> None:
    """Gemma 2 makes one of each kind, whatever kinds of layers it has."""
    settings = {**FULL, "final_logit_softcapping": None, "attn_logit_softcapping": None}
    torch.manual_seed(0)
    target = text_only("Gemma2", **settings).target.eval()
    expected = target.generate(**question(), max_new_tokens=8, do_sample=False)
    assert torch.equal(decoded(target, question()), expected)


def test_layers_that_keep_keywords_from_their_attention() -> None:
    target = text_only("Nemotron").target
    message = f"keywords of a call on .*, got none in NemotronAttention.*{PAGE}"
    with pytest.raises(NotImplementedError, match=message):
        decoded(target, question())


def test_latent_attention() -> None:
    ranks = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
    experts = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2}
    settings = {**ranks, **experts, "num_key_value_heads": 4, "v_head_dim": 16}
    target = text_only("DeepseekV3", **settings).target
    message = rf"keys and values of one shape, .* got \[.*as latent attention.*{PAGE}"
    with pytest.raises(NotImplementedError, match=message):
        decoded(target, question())


def _vision() -> Any:
    return hf.SiglipVisionConfig(
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False},
    )


def _with_an_image(target: Any, image_rows: int = 4) -> dict[str, Any]:
    image = tokenizer().convert_tokens_to_ids("<image>")
    ids = torch.tensor([[image] * image_rows + list(range(20, 26))])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": (ids == image).long(),
        "pixel_values": torch.randn(1, 3, 28, 28),
    }


def test_image_tokens_that_see_one_another() -> None:
    config = hf.PaliGemmaConfig(
        vision_config=_vision(),
        text_config=hf.GemmaConfig(**text_settings(head_dim=16)),
        image_token_index=tokenizer().convert_tokens_to_ids("<image>"),
        projection_dim=64,
    )
    target = hf.PaliGemmaForConditionalGeneration(config)
    with pytest.raises(NotImplementedError, match=f"got a mask of PaliGemmaModel's own.*{PAGE}"):
        decoded(target, _with_an_image(target))


def test_placeholders_that_no_configuration_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_PLACEHOLDERS", ("clip_token_id",))
    message = rf"must name the ids .*\(clip_token_id\), got none for 'internvl'.*{PAGE}"
    with pytest.raises(ValueError, match=message):
        Parts(tiny("internvl").target)


def test_what_an_adapter_does_not_name_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    target, processor = tiny("qwen3_vl")
    family = Parts(target).family
    unnamed = {**vars(family), "per_visual_token": ()}
    monkeypatch.setattr(requirements, "FAMILIES", {"qwen3_vl": type(family)(**unnamed)})
    inputs = prompts(processor, turns(4, "What?"))
    message = f"what an adapter names, got deepstack_visual_embeds from Qwen3VLModel.*{PAGE}"
    with pytest.raises(NotImplementedError, match=message):
        decoded(target, inputs)


def test_a_language_model_by_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model would be taken for one of text, and its images be lost."""
    target, processor = tiny("internvl")
    monkeypatch.setattr(requirements, "_LANGUAGE_MODELS", ("brain",))
    message = f"call its language model brain, got neither in InternVLModel beside.*{PAGE}"
    with pytest.raises(ValueError, match=message):
        Parts(target)
    monkeypatch.setattr(requirements, "_TOWERS", ())
    parts, inputs = Parts(target), prompts(processor, turns(None, "What?"))
    for images in ({"pixel_values": inputs.pop("pixel_values")}, {"features": {"image": (ONE,)}}):
        message = f"name that an adapter knows, got {next(iter(images))} for InternVLModel.*{PAGE}"
        with pytest.raises(NotImplementedError, match=message):
            take_prompts(parts, {**inputs, **images}, None)
