"""What `models/bridge` relies on in transformers, held to the release that is installed."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from typing import Any

import pytest
import torch
import transformers
from decoding_cases import prompt, random_pair
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin
from transformers.generation import GenerationMode

from sparrow_kernels.models import SparrowDecoder, sparrow_generate
from sparrow_kernels.models.bridge.attention import ATTENTION_NAME
from sparrow_kernels.models.bridge.cache import PreallocatedLayer
from sparrow_kernels.models.bridge.names import (
    cache_keyword,
    cache_of,
    not_handed_on,
    without_cache,
)
from sparrow_kernels.models.bridge.view import private_view
from sparrow_kernels.models.families import Parts

NEW_TOKENS = 12


def decode(target: Any, **settings: Any) -> torch.Tensor:
    _, draft, processor = random_pair()
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **settings}
    return SparrowDecoder(target, draft).generate(**prompt(processor, [8]), **settings).sequences


def expected() -> torch.Tensor:
    target, _, processor = random_pair()
    inputs = prompt(processor, [8])
    return target.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)


@pytest.fixture
def target() -> Any:
    """A target of this test's own, to be tampered with."""
    return copy.deepcopy(random_pair()[0])


class TestTheCache:
    def test_goes_by_the_name_that_forwards_use(self) -> None:
        parts = Parts(random_pair()[0])
        name = cache_keyword(parts.language_model)
        assert name in inspect.signature(parts.base.forward).parameters
        assert (
            name in inspect.signature(parts.language_model.layers[0].self_attn.forward).parameters
        )

    def test_a_layer_answers_all_that_is_asked(self) -> None:
        asked = CacheLayerMixin.__abstractmethods__
        assert asked <= set(vars(PreallocatedLayer))

    def test_is_found_under_any_name(self) -> None:
        mine = DynamicCache()
        keywords = {"store": mine, "use_cache": True, "past_key_values": None}
        assert cache_of(keywords) is mine
        assert without_cache(keywords) == {"use_cache": True}

    def test_a_dropped_cache_is_an_error_in_one_sentence(
        self, target: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A release that renames the keyword again, and quietly drops the old names."""
        model = type(target.model.language_model)
        real = model.forward

        def renamed(self, *arguments, cache=None, past_key_values=None, store=None, **keywords):
            return real(self, *arguments, **keywords)

        monkeypatch.setattr(model, "forward", renamed)
        with pytest.raises(RuntimeError) as caught:
            decode(target)
        message = str(caught.value)
        assert message.startswith("a prefill of") and "not in 2 of 2, layer 0 first" in message
        assert f"transformers {transformers.__version__} is" in message
        assert "tested range" in message and "\n" not in message

    def test_a_forward_without_a_cache_is_an_error(
        self, target: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def renamed(self, inputs_embeds=None, store=None):
            raise AssertionError("never called")

        monkeypatch.setattr(type(target.model.language_model), "forward", renamed)
        with pytest.raises(RuntimeError, match="must take a cache as cache or past_key_values"):
            decode(target)

    def test_nodes_that_do_not_arrive_are_an_error(
        self, target: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A release that no longer hands unknown keywords on to the attention function."""
        model = type(target.model.language_model)
        real = model.forward

        @functools.wraps(real)
        def deaf(self, *arguments, nodes, **keywords):
            return real(self, *arguments, **keywords)

        monkeypatch.setattr(model, "forward", deaf)
        with pytest.raises(NotImplementedError, match="keywords of a call on .* transformers"):
            decode(target)

    def test_layers_that_attend_in_another_way_are_an_error(
        self, target: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A release in which layers look their attention up elsewhere than in a configuration."""
        attention = type(target.model.language_model.layers[0].self_attn)
        real = attention.forward
        own = copy.copy(target.model.language_model.config)

        def stubborn(self, *arguments, **keywords):
            self.config = own
            return real(self, *arguments, **keywords)

        monkeypatch.setattr(attention, "forward", stubborn)
        with pytest.raises(RuntimeError, match="must run in every layer .* ran in 0 of 2 .transf"):
            decode(target)


class TestTheView:
    def test_shares_weights_and_has_a_configuration_of_its_own(self) -> None:
        target = random_pair()[0]
        view = Parts(target).private().model
        assert dict(view.named_parameters()).keys() == dict(target.named_parameters()).keys()
        for name, parameter in target.named_parameters():
            assert view.get_parameter(name) is parameter
        attention = view.model.language_model.layers[1].self_attn
        assert attention.config._attn_implementation == ATTENTION_NAME
        assert attention.config is view.model.language_model.config
        assert target.model.language_model.config._attn_implementation != ATTENTION_NAME
        assert view.model.visual is target.model.visual

    def test_keeps_what_a_forward_stores(self) -> None:
        target = random_pair()[0]
        target.model.rope_deltas = None
        view = Parts(target).private().model
        view.model.rope_deltas = torch.tensor([[77]])
        view.model.language_model.rotary_emb.register_buffer("inv_freq", torch.zeros(4))
        view.generation_config.max_new_tokens = 123
        assert target.model.rope_deltas is None
        assert bool(target.model.language_model.rotary_emb.inv_freq.any())
        assert target.generation_config.max_new_tokens != 123

    def test_hooks_of_the_owner_are_called(self, target: Any) -> None:
        calls = []
        layer = target.model.language_model.layers[0]
        layer.register_forward_hook(lambda *_: calls.append(1))
        assert torch.equal(decode(target), expected())
        assert calls

    @pytest.mark.parametrize("where", ["model", "model.language_model.layers.1", "self_attn"])
    def test_forwards_patched_as_accelerate_does(self, target: Any, where: str) -> None:
        """It stores the old bound forward, and a partial of a function that takes the module."""
        path = "model.language_model.layers.0.self_attn" if where == "self_attn" else where
        module: Any = target.get_submodule(path)
        seen = []

        def new_forward(module: Any, *arguments: Any, **keywords: Any) -> Any:
            seen.append(module)
            return module._old_forward(*arguments, **keywords)

        module._old_forward = module.forward
        patched = functools.partial(new_forward, module)
        module.forward = functools.update_wrapper(patched, module._old_forward)
        assert torch.equal(decode(target), expected())
        assert seen and all(one is not module for one in seen)

    def test_a_forward_patched_with_a_method(self, target: Any) -> None:
        layer: Any = target.model.language_model.layers[0]
        real = type(layer).forward
        layer.forward = types.MethodType(lambda self, *a, **k: real(self, *a, **k), layer)
        assert torch.equal(decode(target), expected())

    def test_compiled_modules_run_uncompiled(self, target: Any) -> None:
        layers = target.model.language_model.layers
        layers[0].compile(backend="eager")
        layers[1].forward = torch.compile(layers[1].forward, backend="eager")
        assert torch.equal(decode(target), expected())

    def test_wrapped_by_torch_compile(self, target: Any) -> None:
        target.model.language_model = torch.compile(target.model.language_model, backend="eager")
        assert torch.equal(decode(target), expected())
        assert torch.equal(decode(torch.compile(target, backend="eager")), expected())

    def test_a_forward_that_cannot_follow_is_refused(self, target: Any) -> None:
        layer = target.model.language_model.layers[0]
        real = layer.forward
        layer.forward = lambda *a, **k: real(*a, **k)
        with pytest.raises(NotImplementedError, match="Layer.forward must be bound to its module"):
            decode(target)

    def test_gradient_checkpointing_in_training_mode(self, target: Any) -> None:
        """It drops the cache of layers that are to be differentiated; ours never are."""
        if not hasattr(target, "activation_checkpointing_enable"):  # its name from 5.24 on
            target.gradient_checkpointing_enable()
        else:
            target.activation_checkpointing_enable()
        target.train()
        assert torch.equal(decode(target), expected())
        assert target.model.language_model.layers[0].gradient_checkpointing

    def test_costs_copies_of_the_language_model_s_modules_alone(self) -> None:
        target = random_pair()[0]
        view = private_view(target, target.model.language_model, ATTENTION_NAME)
        copied = {name for name, m in view.named_modules() if m is not target.get_submodule(name)}
        assert "model.language_model.layers.0.self_attn" in copied
        assert not any(name.endswith("q_proj") or "visual" in name for name in copied)


class TestGenerate:
    def test_knows_what_it_does_not_hand_on(self) -> None:
        target, _, processor = random_pair()
        found: dict[str, Any] = {}

        def custom(model, input_ids, **_):
            found.update(not_handed_on("streamer", "assistant_model"))
            return input_ids

        class Streamer:
            def put(self, value): ...
            def end(self): ...

        streamer = Streamer()
        inputs = prompt(processor, [])
        bound = functools.partial(torch.no_grad()(custom))
        target.generate(**inputs, custom_generate=bound, streamer=streamer, max_new_tokens=2)
        assert found == {"streamer": streamer}
        assert not_handed_on("streamer") == {}, "no generate is running"

    def test_prepares_positions_of_the_prompt(self) -> None:
        """Text row first, then time, height and width."""
        target, draft, processor = random_pair()
        caught = {}

        def custom(model, input_ids, **keywords):
            caught.update(keywords)
            return input_ids

        inputs = prompt(processor, [8])
        target.generate(**inputs, custom_generate=custom, max_new_tokens=2)
        assert caught["position_ids"].shape == (4, 1, inputs["input_ids"].shape[1])

    def test_tells_greedy_and_sampling_from_other_modes(self) -> None:
        config = transformers.GenerationConfig
        assert config().get_generation_mode() == GenerationMode.GREEDY_SEARCH
        assert config(do_sample=True).get_generation_mode() == GenerationMode.SAMPLE
        lookup = config(prompt_lookup_num_tokens=3).get_generation_mode()
        assert lookup == GenerationMode.ASSISTED_GENERATION

    def test_finds_the_draft_by_its_name(self) -> None:
        target, draft, processor = random_pair()
        settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
        inputs = prompt(processor, [8])
        ours = target.generate(**inputs, **settings, custom_generate=sparrow_generate, draft=draft)
        assert torch.equal(ours, expected())
