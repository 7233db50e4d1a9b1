"""What lies around a target's language model is left out of a step: it must add nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_cases import prompts, tiny, turns
from refusal_cases import FULL, PAGE, decoded, question
from tiny_parts import text_settings

from sparrow_kernels.models.families import Parts

import transformers as hf  # isort: skip  (after sparrow_kernels: the shim must come first)

HEAD = "target must take its logits from its LM head unaltered, and its tokens to .* model"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Bert", {"is_decoder": True, "max_position_embeddings": 512}),
        ("Roberta", {"is_decoder": True, "max_position_embeddings": 512, "pad_token_id": 0}),
        ("Electra", {"is_decoder": True, "max_position_embeddings": 512, "embedding_size": 64}),
        ("ModernBertDecoder", {**FULL, "global_attn_every_n_layers": 1}),
    ],
)
def test_a_head_of_more_than_one_layer(kind: str, settings: dict[str, Any]) -> None:
    head = "LMHeadModel" if kind == "Bert" else "ForCausalLM"
    config = getattr(hf, f"{kind}Config")(**text_settings(**settings))
    target = getattr(hf, f"{kind}{head}")(config)
    got = "got (other states at its LM head|a forward or a hook that changes them)"
    with pytest.raises(ValueError, match=f"^{HEAD}, {got}.*{PAGE}"):
        decoded(target, question())


class Halved(hf.LlamaForCausalLM):
    """What a user's subclass may do to its logits."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        output = super().forward(*arguments, **keywords)
        output.logits = output.logits / 2
        return output


class Trimmed(hf.LlamaForCausalLM):
    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        output = super().forward(*arguments, **keywords)
        output.logits = output.logits[..., :300]
        return output


@pytest.mark.parametrize(
    ("kind", "got"), [(Halved, "changes them"), (Trimmed, "makes .*300. of .*320.")]
)
def test_a_subclass_that_changes_its_logits(kind: Any, got: str) -> None:
    with pytest.raises(ValueError, match=f"^{HEAD}, got .*{got}.*{PAGE}"):
        decoded(kind(hf.LlamaConfig(**text_settings())), question())


def _negated(_: Any, __: Any, output: Any) -> Any:
    output.logits = -output.logits
    return output


def _other_states(_: Any, __: Any, output: Any) -> Any:
    output.last_hidden_state = output.last_hidden_state + 1
    return output


def _other_tokens(_: Any, __: Any, keywords: dict[str, Any]) -> Any:
    return (), {**keywords, "input_ids": keywords["input_ids"] + 1}


def test_hooks_around_the_language_model() -> None:
    """What they do to a prompt or to logits a step would leave out."""
    target, processor = tiny("qwen2_5_vl")
    inputs = prompts(processor, turns(4, "What?"))
    with_keywords = {"with_kwargs": True}
    for hooked, got in [
        (lambda: target.register_forward_hook(_negated), "changes them"),
        (lambda: target.model.register_forward_hook(_other_states), "other states"),
        (
            lambda: target.register_forward_pre_hook(_other_tokens, **with_keywords),
            "other tokens at its base model",
        ),
    ]:
        handle = hooked()
        try:
            with pytest.raises(ValueError, match=f"^{HEAD}, got .*{got}.*{PAGE}"):
                decoded(target, inputs)
        finally:
            handle.remove()


@pytest.mark.parametrize("name", ["qwen2_5_vl", "Llama"])
def test_hooks_that_a_step_runs_or_that_only_look_do_no_harm(name: str) -> None:
    target, processor = tiny(name)
    inputs = prompts(processor, turns("Why?"))
    seen: list[torch.Tensor] = []
    handles = [
        target.register_forward_hook(lambda _, __, output: seen.append(output.logits)),
        Parts(target).language_model.register_forward_hook(_other_states),
        target.lm_head.register_forward_hook(lambda _, __, logits: logits.flip(-1)),
    ]
    try:
        expected = target.generate(**inputs, max_new_tokens=8, do_sample=False)
        looked = len(seen)
        assert torch.equal(decoded(target, inputs), expected)
        assert len(seen) == looked + 1 and torch.equal(seen[-1], seen[0][:, -1:])
    finally:
        for handle in handles:
            handle.remove()


def test_a_base_model_that_changes_the_embeddings_of_text() -> None:
    target, processor = tiny("internvl")
    inputs = prompts(processor, turns(None, "What?"))
    base, inner = type(target.model), type(target.model).forward

    def forward(self: Any, input_ids: Any = None, inputs_embeds: Any = None, **given: Any) -> Any:
        embeddings = self.get_input_embeddings()(input_ids) * 2
        pixels = given.pop("pixel_values", None)
        assert pixels is not None
        return self.language_model(inputs_embeds=embeddings, **given)

    base.forward = forward
    try:
        message = f"embeddings of text on as they are, got others in InternVL.*{PAGE}"
        with pytest.raises(ValueError, match=message):
            decoded(target, inputs)
    finally:
        base.forward = inner
