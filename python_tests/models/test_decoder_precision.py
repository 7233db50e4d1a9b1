"""Dtypes: a draft runs in its target's, and none of the caller's settings gets in between."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from decoding_cases import prompt, random_pair

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models import SparrowDecoder, sparrow_generate
from sparrow_kernels.ops.accept import sample_tokens

NEW_TOKENS = 12


def inputs() -> dict[str, torch.Tensor]:
    return prompt(random_pair()[2], [8])


@cache
def target_in(dtype: torch.dtype) -> Any:
    return copy.deepcopy(random_pair()[0]).to(dtype)


@pytest.mark.parametrize("saved", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("run", [torch.float32, torch.bfloat16])
def test_a_draft_saved_in_one_dtype_runs_in_that_of_its_target(
    tmp_path: Any, saved: torch.dtype, run: torch.dtype
) -> None:
    """The README's lines: a draft is loaded as it was saved, and its target as its owner likes."""
    copy.deepcopy(random_pair()[1]).to(saved).save_pretrained(tmp_path)
    draft = SparrowDraft.from_pretrained(tmp_path)
    assert draft.dtype == saved
    target, settings = target_in(run), {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    result = SparrowDecoder(target, draft, "9-2-4").generate(**inputs(), **settings)
    if run == torch.float32:
        assert torch.equal(result.sequences, target.generate(**inputs(), **settings))
    assert result.stats.new_tokens == NEW_TOKENS
    dropped_in = target.generate(
        **inputs(), **settings, custom_generate=sparrow_generate, draft=draft, tree="9-2-4"
    )
    assert torch.equal(dropped_in, result.sequences)
    assert draft.dtype == saved, "the caller's draft was converted"


def test_a_converted_draft_follows_its_weights() -> None:
    draft = copy.deepcopy(random_pair()[1])
    weight = torch.empty(0, dtype=torch.float64)
    first = draft.network_for(weight)
    assert first is draft.network_for(weight)
    with torch.no_grad():
        draft.network.fc.bias += 1.0
    second = draft.network_for(weight)
    assert torch.equal(second.fc.bias, draft.network.fc.bias.double())
    assert "_converted" not in str(list(draft.state_dict()))
    assert draft.network_for(torch.empty(0)) is draft.network


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AMBIENT: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default bfloat16": lambda: _default(torch.bfloat16),
    "default float64": lambda: _default(torch.float64),
    "inference mode": torch.inference_mode,
    "with gradients": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast off": lambda: torch.autocast("cpu", enabled=False),
}


@pytest.mark.parametrize("name", AMBIENT)
@pytest.mark.parametrize("tree", ["9-2-4", "4x2"])
def test_greedy_text_is_that_of_plain_decoding(name: str, tree: str) -> None:
    target, draft, _ = random_pair()
    given, settings = inputs(), {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    with AMBIENT[name]():
        result = SparrowDecoder(target, draft, tree).generate(**given, **settings).sequences
        plain = target.generate(**given, **settings)
    if name != "autocast":  # there a verify of several rows rounds otherwise than single steps
        assert torch.equal(result, plain)
    assert result.shape == plain.shape
    assert torch.equal(result[:, : given["input_ids"].shape[1] + 1], plain[:, : -NEW_TOKENS + 1])


@pytest.mark.parametrize("name", AMBIENT)
@pytest.mark.parametrize("tree", ["9-2-4", "4x2"])
def test_samples_are_those_of_no_setting(name: str, tree: str) -> None:
    target, draft, _ = random_pair()
    given = inputs()

    def sample(setting: AbstractContextManager[Any]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        settings = {"max_new_tokens": NEW_TOKENS, "do_sample": True, "temperature": 3.0}
        with setting:
            decoder = SparrowDecoder(target, draft, tree)
            return decoder.generate(**given, **settings, generator=generator).sequences

    result = sample(AMBIENT[name]())
    if name == "autocast":  # other bits, other samples, which end where they end
        prompt = given["input_ids"]
        assert torch.equal(result[:, : prompt.shape[1]], prompt)
        assert 0 < result.shape[1] - prompt.shape[1] <= NEW_TOKENS
    else:
        assert torch.equal(result, sample(nullcontext()))


def test_autocast_computes_in_its_own_dtype() -> None:
    """As plain decoding does: attention is one of the functions that autocast rounds."""
    seen = set()
    target, draft, _ = random_pair()
    hook = target.model.language_model.layers[0].self_attn.o_proj.register_forward_pre_hook(
        lambda module, arguments: seen.add(arguments[0].dtype)
    )
    try:
        with torch.autocast("cpu", torch.bfloat16):
            SparrowDecoder(target, draft).generate(**inputs(), max_new_tokens=4, do_sample=False)
            ours = set(seen)
            seen.clear()
            target.generate(**inputs(), max_new_tokens=4, do_sample=False)
    finally:
        hook.remove()
    assert ours == seen == {torch.bfloat16}


class TestLogitsThatAreNone:
    """NaN and infinities: greedy as plain; sampling names the row and the cause, and emits none."""

    SETTINGS = {"max_new_tokens": 6, "temperature": 1.0}

    @pytest.fixture
    def broken(self) -> Iterator[Callable[[float, int], Any]]:
        """`broken(value, after)`: a target whose logits are `value` after so many calls."""
        target = copy.deepcopy(random_pair()[0])
        calls = []

        def make(value: float, after: int) -> Any:
            def spoil(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
                calls.append(1)
                return torch.full_like(output, value) if len(calls) > after else output

            target.lm_head.register_forward_hook(spoil)
            return target

        yield make

    @pytest.mark.parametrize("tree", ["9-2-4", "4x2"])
    @pytest.mark.parametrize("after", [0, 1, 9])
    @pytest.mark.parametrize(
        "value, cause",
        [
            (float("nan"), "its scores hold NaN"),
            (float("inf"), "its scores are infinite"),
            (float("-inf"), "every token is banned"),
        ],
    )
    def test_sampling(self, broken, value: float, cause: str, after: int, tree: str) -> None:
        decoder = SparrowDecoder(broken(value, after), random_pair()[1], tree)
        # No draw ends the text before the calls that spoil it.
        settings = {"do_sample": True, "min_new_tokens": 20, "max_new_tokens": 20}
        with pytest.raises(ValueError, match=f"sampling: row 0 must have a token .* {cause}"):
            decoder.generate(**inputs(), **settings)

    @pytest.mark.parametrize("temperature", [1e-40, 1e-38])
    @pytest.mark.parametrize("tree", ["9-2-4", "4x2"])
    def test_a_temperature_too_low(self, tree: str, temperature: float) -> None:
        decoder = SparrowDecoder(random_pair()[0], random_pair()[1], tree)
        with pytest.raises(ValueError, match="row 0 must have a token to draw .* temperature"):
            decoder.generate(**inputs(), do_sample=True, temperature=temperature, max_new_tokens=6)

    @pytest.mark.parametrize("tree", ["9-2-4", "4x2"])
    def test_everything_banned_by_a_processor(self, tree: str) -> None:
        target, draft, _ = random_pair()
        every = list(range(target.config.get_text_config().vocab_size))
        with pytest.raises(ValueError, match="row 0 must have a token .* every token is banned"):
            SparrowDecoder(target, draft, tree).generate(
                **inputs(), do_sample=True, suppress_tokens=every, max_new_tokens=6
            )

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_greedy_is_as_plain(self, broken, value: float) -> None:
        target, draft, _ = random_pair()
        with torch.no_grad():
            target = copy.deepcopy(target)
            target.lm_head.weight[:] = value
        settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": 10**6}
        plain = target.generate(**inputs(), **settings)
        ours = SparrowDecoder(target, draft).generate(**inputs(), **settings).sequences
        assert torch.equal(ours, plain)

    @pytest.mark.parametrize("tree", ["9-2-4", "6-5-1"])
    def test_a_draft_of_nan_costs_speed_alone(self, tree: str) -> None:
        target, draft, _ = random_pair()
        draft = copy.deepcopy(draft)
        with torch.no_grad():
            draft.network.down.weight[:] = float("nan")
        settings = {"max_new_tokens": 6, "do_sample": False}
        ours = SparrowDecoder(target, draft, tree).generate(**inputs(), **settings).sequences
        assert torch.equal(ours, target.generate(**inputs(), **settings))

    def test_a_draft_of_nan_samples_the_same_distribution(self) -> None:
        """Drawn from a uniform distribution instead, so accepted now and then."""
        target, draft, _ = random_pair()
        draft = copy.deepcopy(draft)
        with torch.no_grad():
            draft.network.down.weight[:] = float("nan")
        torch.manual_seed(0)
        settings = {"max_new_tokens": 40, "do_sample": True, "top_k": 1, "temperature": 0.5}
        ours = SparrowDecoder(target, draft, "4x2").generate(**inputs(), **settings).sequences
        plain = target.generate(**inputs(), max_new_tokens=40, do_sample=False)
        assert torch.equal(ours, plain)

    def test_the_op_itself_never_draws_what_has_no_mass(self) -> None:
        probs = torch.tensor([[0.0, float("nan"), 1.0], [0.0, 0.0, 0.0]])
        with pytest.raises(ValueError, match="sample_tokens"):
            sample_tokens(probs, torch.tensor([0.5, 0.5]))
