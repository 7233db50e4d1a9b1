"""What a call holds while it decodes: no vision features, no states of a prompt, no growth."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from family_cases import FAMILIES, draft_for, prompts, tiny, turns

from sparrow_kernels.decoding import Step
from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models import prompt as prompt_module
from sparrow_kernels.models import request as request_module
from sparrow_kernels.models.target import TargetState
from sparrow_kernels.ops.attention import seen

SETTINGS: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": 319}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_features_and_states_of_a_prompt_are_gone_before_the_first_verify(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, processor = tiny(name)
    watched: dict[str, list[weakref.ref]] = {"features": [], "embeddings": [], "states": []}
    tower = target.model.visual if hasattr(target.model, "visual") else target.model.vision_tower

    def watch(kind: str, *tensors: Any) -> None:
        watched[kind] += [weakref.ref(each) for each in tensors if isinstance(each, torch.Tensor)]

    def on_tower(module: Any, arguments: Any, output: Any) -> None:
        # Not its arguments: the pixels are the caller's.
        watch("features", *(output.values() if hasattr(output, "values") else [output]))

    honest_take, honest_run = request_module.take_prompts, TargetState._run_chunk

    def take(*arguments: Any) -> Any:
        found = honest_take(*arguments)
        for prompt in found:
            watch("embeddings", prompt.embeddings)
            for layers in prompt.per_visual.values():
                watch("features", *layers)
        return found

    def run_chunk(self: TargetState, *arguments: Any) -> torch.Tensor:
        states = honest_run(self, *arguments)
        watch("states", states)
        return states

    alive: list[dict[str, int]] = []
    honest_verify = Step.verify

    def verify(self: Step) -> None:
        gc.collect()
        alive.append({kind: sum(r() is not None for r in refs) for kind, refs in watched.items()})
        honest_verify(self)

    monkeypatch.setattr(request_module, "take_prompts", take)
    monkeypatch.setattr(TargetState, "_run_chunk", run_chunk)
    monkeypatch.setattr(Step, "verify", verify)
    hook = tower.register_forward_hook(on_tower)
    decoder = SparrowDecoder(target, draft_for(name), "6-5-1")
    try:
        decoder.generate(**prompts(processor, turns(8, "What happens?")), **SETTINGS)
    finally:
        hook.remove()
    assert all(watched.values()), "nothing was watched"
    assert alive[0] == {"features": 0, "embeddings": 0, "states": 0}


def test_the_tower_is_run_inside_the_phase_of_the_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    target, processor = tiny("qwen2_5_vl")
    inside: list[bool] = []
    honest = prompt_module._at_the_door

    def at_the_door(*arguments: Any) -> Any:
        inside.append(True)
        found = honest(*arguments)
        inside.append(False)
        return found

    monkeypatch.setattr(prompt_module, "_at_the_door", at_the_door)
    seen: list[bool] = []
    hook = target.model.visual.register_forward_hook(lambda *_: seen.append(bool(inside[-1:])))
    decoder = SparrowDecoder(target, draft_for("qwen2_5_vl"), "6-5-1")
    try:
        decoder.generate(**prompts(processor, turns(8, "What happens?")), **SETTINGS)
    finally:
        hook.remove()
    assert seen == [True]


@pytest.mark.slow
def test_a_thousand_steps_hold_no_more_and_stay_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tensors are counted step by step; positions that drift would change the text."""
    target, processor = tiny("Mistral")
    inputs = prompts(processor, turns("Why?"))
    settings = {**SETTINGS, "max_new_tokens": 1_001, "suppress_tokens": [319]}
    counts: list[int] = []
    honest = Step.toss

    def toss(self: Step) -> None:
        honest(self)
        if len(counts) < 3 or self._steps_seen % 250 == 249:
            seen.tree_part.cache_clear()  # of what an op has seen, bounded by itself
            gc.collect()
            counts.append(sum(type(each) is torch.Tensor for each in gc.get_objects()))
        self._steps_seen += 1

    monkeypatch.setattr(Step, "_steps_seen", 0, raising=False)
    monkeypatch.setattr(Step, "toss", toss)
    decoder = SparrowDecoder(target, draft_for("Mistral"), "4-3-1")
    result = decoder.generate(**inputs, **settings)
    assert result.stats.new_tokens == 1_001
    assert max(counts[3:]) <= counts[2] + 4
    plain = target.generate(**inputs, **settings)
    assert torch.equal(result.sequences, plain)
    assert result.cache.prefix_lens.tolist() == [plain.shape[1] - 1]
