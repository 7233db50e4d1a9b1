"""What lies around a target's language model is left out of a step: it must add nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_cases import draft_for, prompts, tiny, turns
from refusal_cases import FULL, PAGE, decoded, question
from tiny_parts import text_settings

from sparrow_kernels.models import SparrowDecoder
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
    with pytest.raises(ValueError, match=f"^{HEAD}, got a forward or a hook that changes.*{PAGE}"):
        decoded(target, question())


class Halved(hf.LlamaForCausalLM):
    """What a user's subclass may do to its logits."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        output = super().forward(*arguments, **keywords)
        output.logits = output.logits / 2
        return output


class Banning(hf.LlamaForCausalLM):
    """The same in place."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        output = super().forward(*arguments, **keywords)
        output.logits[..., :12] = -1e9
        return output


class Trimmed(hf.LlamaForCausalLM):
    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        output = super().forward(*arguments, **keywords)
        output.logits = output.logits[..., :300]
        return output


class Scaling(hf.LlamaForCausalLM):
    """What it may do to its tokens."""

    def forward(self, input_ids: Any = None, **keywords: Any) -> Any:
        return super().forward(inputs_embeds=self.model.embed_tokens(input_ids) * 2, **keywords)


class Shifted(hf.LlamaForCausalLM):
    def forward(self, input_ids: Any = None, position_ids: Any = None, **keywords: Any) -> Any:
        return super().forward(input_ids, position_ids=position_ids * 2, **keywords)


class Around(hf.LlamaForCausalLM):
    def forward(self, input_ids: Any = None, **keywords: Any) -> Any:
        states = self.model.norm(self.model.embed_tokens(input_ids))
        return hf.modeling_outputs.CausalLMOutputWithPast(logits=self.lm_head(states))


@pytest.mark.parametrize(
    ("kind", "got"),
    [
        (Halved, "changes them"),
        (Banning, "changes them"),
        (Trimmed, "makes .*300. of .*320."),
        (Scaling, "other embeddings at its base model"),
        (Shifted, "other positions at its base model"),
        (Around, "a forward that does not call its `model`"),
    ],
)
def test_a_subclass_that_adds_something(kind: Any, got: str) -> None:
    with pytest.raises(ValueError, match=f"^{HEAD}, got .*{got}.*{PAGE}"):
        decoded(kind(hf.LlamaConfig(**text_settings())), question())


class Reading(hf.LlamaForCausalLM):
    """Reads what a step of `generate` has, asks its head for more, and adds nothing."""

    def forward(self, input_ids: Any = None, **keywords: Any) -> Any:
        positions = keywords.get("position_ids")  # which the first call of `generate` has not
        assert positions is None or positions.shape[-1] == input_ids.shape[-1]
        assert keywords["attention_mask"].shape[-1] >= input_ids.shape[-1]
        embeddings = self.model.embed_tokens(input_ids)
        output = super().forward(inputs_embeds=embeddings, **keywords)
        cache = getattr(output, "cache", None) or output.past_key_values
        assert cache.get_seq_length() >= 0
        self.lm_head(embeddings)
        return output


def test_a_subclass_that_only_reads_is_served() -> None:
    torch.manual_seed(0)
    target = Reading(hf.LlamaConfig(**text_settings())).eval()
    expected = target.generate(**question(), max_new_tokens=8, do_sample=False)
    assert torch.equal(decoded(target, question()), expected)


def test_a_forward_that_does_not_run_on_one_token() -> None:
    class Long(hf.LlamaForCausalLM):
        def forward(self, input_ids: Any = None, **keywords: Any) -> Any:
            raise LookupError("at least two")

    target = Long(hf.LlamaConfig(**text_settings()))
    message = "must run on one token behind its prompt, .* got LookupError from Long: at least two"
    with pytest.raises(RuntimeError, match=message):
        decoded(target, question())


def _negated(_: Any, __: Any, output: Any) -> Any:
    output.logits = -output.logits
    return output


def _other_states(_: Any, __: Any, output: Any) -> Any:
    output.last_hidden_state = output.last_hidden_state + 1
    return output


def _louder_states(_: Any, __: Any, output: Any) -> None:
    output.last_hidden_state.mul_(2)


def _other_tokens(_: Any, __: Any, keywords: dict[str, Any]) -> Any:
    return (), {**keywords, "input_ids": keywords["input_ids"] + 1}


def _other_positions(_: Any, __: Any, keywords: dict[str, Any]) -> Any:
    return (), {**keywords, "position_ids": keywords["position_ids"] + 1}


def _embedded(target: Any) -> Any:
    def hook(_: Any, __: Any, keywords: dict[str, Any]) -> Any:
        embeddings = target.get_input_embeddings()(keywords["input_ids"]) * 2
        return (), {**keywords, "input_ids": None, "inputs_embeds": embeddings}

    return hook


def test_hooks_around_the_language_model() -> None:
    """What they do to a prompt or to logits a step would leave out."""
    target, processor = tiny("qwen2_5_vl")
    inputs = prompts(processor, turns(4, "What?"))
    with_keywords = {"with_kwargs": True}
    for module, hook, got in [
        (target, _negated, "changes them"),
        (target.model, _other_states, "changes them"),
        (target.model, _louder_states, "changes them"),
        (target, _other_tokens, "other tokens at its base model"),
        (target, _other_positions, "other positions at its base model"),
        (target, _embedded(target), "other embeddings at its base model"),
    ]:
        if hook in (_negated, _other_states, _louder_states):
            handle = module.register_forward_hook(hook)
        else:
            handle = module.register_forward_pre_hook(hook, **with_keywords)
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

    def look(_: Any, __: Any, output: Any) -> None:
        assert (getattr(output, "cache", None) or output.past_key_values).get_seq_length() >= 0
        seen.append(output.logits)

    handles = [
        target.register_forward_hook(look),
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


def test_a_hook_before_the_language_model_acts_once_on_a_prompt() -> None:
    target, processor = tiny("qwen2_5_vl")
    inputs = prompts(processor, turns(4, "What?"))
    calls: list[int] = []

    def louder(_: Any, __: Any, keywords: dict[str, Any]) -> Any:
        embeddings = keywords["inputs_embeds"]
        calls.append(embeddings.shape[1])
        if embeddings.shape[1] > 1:  # a prompt's, of both
            embeddings = torch.cat([embeddings[:, :-9] * 2, embeddings[:, -9:]], dim=1)
        return (), {**keywords, "inputs_embeds": embeddings}

    language_model = Parts(target).language_model
    handle = language_model.register_forward_pre_hook(louder, with_kwargs=True)
    try:
        draft = draft_for("qwen2_5_vl")
        expected = target.generate(**inputs, max_new_tokens=8, do_sample=False)
        before = len(calls)
        ours = SparrowDecoder(target, draft).generate_plainly(
            **inputs, max_new_tokens=8, do_sample=False
        )
    finally:
        handle.remove()
    assert torch.equal(ours.sequences, expected)
    assert calls[before:] == calls[:before]


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
