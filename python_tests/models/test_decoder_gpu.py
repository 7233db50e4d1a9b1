"""The decoder on a GPU: graphs, batches, seeds, and no wait but the one for what a step emitted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from family_cases import FAMILIES, VOCABULARY, Tiny, draft_for, prompts, tiny, turns
from mimic_draft import mimic

from sparrow_kernels.decoding.graphs import GraphedStep
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models.emission import Emission

pytestmark = pytest.mark.gpu
CHATS = [turns(24, "What happens?"), turns("Why?"), turns(8, 4, "Two?"), turns(None, "And this?")]
SETTINGS: dict[str, Any] = {"max_new_tokens": 32, "do_sample": False, "eos_token_id": 319}


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def on_gpu(request: pytest.FixtureRequest) -> Iterator[Tiny]:
    """A tiny target on the GPU for the time of a test."""
    made = tiny(request.param)
    made.target.cuda()
    yield made
    made.target.cpu()


def on_cuda(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value.cuda() for name, value in inputs.items()}


def draft_of(name: str) -> SparrowDraft:
    return draft_for(name)


@pytest.mark.parametrize("on_gpu", [*FAMILIES, "Llama", "Qwen3"], indirect=True)
@pytest.mark.parametrize("tree", ["6-5-1", "30-4-8"])
def test_replayed_steps_keep_the_text(
    on_gpu: Tiny, tree: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = request.node.callspec.params["on_gpu"]
    chats = CHATS if name in FAMILIES else [turns("Why?"), turns("What is the answer?")]
    inputs = on_cuda(prompts(on_gpu.processor, *chats))
    plain = on_gpu.target.generate(**inputs, **SETTINGS)
    for graphs in (False, True):
        decoder = SparrowDecoder(on_gpu.target, draft_of(name), tree, cuda_graph=graphs)
        for _ in range(2):  # the second call replays what the first has captured
            assert torch.equal(decoder.generate(**inputs, **SETTINGS).sequences, plain)
            assert torch.equal(decoder.generate_plainly(**inputs, **SETTINGS).sequences, plain)


@pytest.mark.parametrize("on_gpu", ["qwen2_5_vl"], indirect=True)
def test_graphs_are_the_default_and_accept_what_eager_steps_accept(
    on_gpu: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = on_cuda(prompts(on_gpu.processor, *CHATS[:2]))
    plain = on_gpu.target.generate(**inputs, **SETTINGS)
    mimic(monkeypatch, plain, VOCABULARY)
    replays = []
    honest = GraphedStep._run
    monkeypatch.setattr(
        GraphedStep, "_run", lambda self, name: (replays.append(name), honest(self, name))[1]
    )
    stats = [
        SparrowDecoder(on_gpu.target, draft_of("qwen2_5_vl"), "9-4-2", cuda_graph=graphs)
        .generate(**inputs, **SETTINGS)
        .stats
        for graphs in (False, None)
    ]
    assert replays
    assert stats[0].histogram == stats[1].histogram
    assert max(len(histogram) for histogram in stats[1].histogram) > 2, "a weak case"


@pytest.mark.parametrize("on_gpu", ["qwen2_5_vl", "qwen3_vl"], indirect=True)
@pytest.mark.parametrize("tree", ["9-2-4", "4x2x1"])
def test_seeds_repeat_and_a_row_does_not_know_its_neighbours(
    on_gpu: Tiny, tree: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["on_gpu"]
    settings = {**SETTINGS, "do_sample": True, "temperature": 1.2, "top_p": 0.95}
    decoder = SparrowDecoder(on_gpu.target, draft_of(name), tree)

    def sampled(chats: list[Any], seeds: list[int]) -> list[list[int]]:
        inputs = on_cuda(prompts(on_gpu.processor, *chats))
        generators = [torch.Generator("cuda").manual_seed(seed) for seed in seeds]
        result = decoder.generate(**inputs, **settings, generator=generators)
        return result.sequences[:, inputs["input_ids"].shape[1] :].tolist()

    both = sampled(CHATS[:2], [1, 2])
    assert sampled(CHATS[:2], [1, 2]) == both
    assert sampled(CHATS[1:2], [2])[0] == both[1]


@pytest.mark.parametrize("on_gpu", ["qwen2_5_vl"], indirect=True)
@pytest.mark.parametrize("graphs", [False, True])
def test_a_step_waits_for_nothing_but_what_it_emitted(
    on_gpu: Tiny, graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparrow_kernels.models import generate as generate_module

    inputs = on_cuda(prompts(on_gpu.processor, *CHATS[:2]))
    decoder = SparrowDecoder(on_gpu.target, draft_of("qwen2_5_vl"), "30-4-8", cuda_graph=graphs)
    decoder.generate(**inputs, **SETTINGS)  # constants of a tree's shape are made once
    decode, take = generate_module.decode, Emission.take

    def watched(*arguments: Any, **keywords: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            decode(*arguments, **keywords)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(generate_module, "decode", watched)
    looks = []
    monkeypatch.setattr(Emission, "take", lambda self, one: (looks.append(1), take(self, one))[1])
    stats = decoder.generate(**inputs, **SETTINGS).stats
    assert len(looks) == max(stats.target_calls)


@pytest.mark.parametrize("on_gpu", ["qwen2_5_vl"], indirect=True)
def test_two_thousand_steps_take_no_more_memory(on_gpu: Tiny) -> None:
    inputs = on_cuda(prompts(on_gpu.processor, turns("Why?")))
    decoder = SparrowDecoder(on_gpu.target, draft_of("qwen2_5_vl"), "6-5-1")
    settings = {"do_sample": False, "eos_token_id": 319, "max_new_tokens": 600}
    decoder.generate(**inputs, **settings)
    held = torch.cuda.memory_allocated()
    for _ in range(3):
        decoder.generate(**inputs, **settings)
    assert torch.cuda.memory_allocated() <= held + 2**20
