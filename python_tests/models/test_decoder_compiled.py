"""Compiled layers: same text, steps only, and no graph that holds a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_cases import draft_for, prompts, tiny, turns

from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models.bridge.view import is_private

SETTINGS: dict[str, Any] = {"max_new_tokens": 16, "do_sample": False}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """What is compiled, as it is handed to a compiler; run as it is."""
    seen: list[torch.fx.GraphModule] = []
    honest = torch.compile

    def compiler(graph: torch.fx.GraphModule, example: Any) -> Any:
        seen.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function: honest(function, backend=compiler))
    torch._dynamo.reset()
    return seen


def decoder(name: str, **settings: Any) -> SparrowDecoder:
    return SparrowDecoder(tiny(name).target, draft_for(name), "9-2-4", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "Llama"])
def test_the_text_stays_and_layers_share_what_is_compiled(name: str, graphs: list[Any]) -> None:
    target, processor = tiny(name)
    chats = [turns("Why?"), turns(*((8,) if name != "Llama" else ()), "What happens?")]
    inputs = prompts(processor, *chats)
    plain = target.generate(**inputs, **SETTINGS)
    ours = decoder(name, compile=True)
    for _ in range(2):
        assert torch.equal(ours.generate(**inputs, **SETTINGS).sequences, plain)
        count = len(graphs)
    assert 0 < count <= 6, "a norm and an MLP, whatever the number of layers"
    assert len(graphs) == count


def test_no_graph_holds_a_cache(graphs: list[torch.fx.GraphModule]) -> None:
    target, processor = tiny("qwen2_5_vl")
    inputs = prompts(processor, turns(24, "What happens?"))
    ours = decoder("qwen2_5_vl", compile=True)
    cache = ours.generate(**inputs, **SETTINGS).cache
    slots = cache.capacity
    assert graphs
    for graph in graphs:
        for node in graph.graph.nodes:
            value = node.meta.get("example_value")
            if isinstance(value, torch.Tensor):
                assert slots not in value.shape, node
    words = {str(node.target) for graph in graphs for node in graph.graph.nodes}
    assert not any("sparrow" in word or "attention" in word for word in words)


@pytest.mark.slow
def test_the_target_is_left_as_it_was() -> None:
    target = tiny("Llama").target
    before = {name: module.__dict__.get("forward") for name, module in target.named_modules()}
    ours = decoder("Llama", compile=True)
    workspace = ours._workspaces["speculative"].taken(1)
    state = workspace.target_of(ours_parts(target), 64, compiled=True)
    assert state._compiled is not None
    compiled = state._compiled.language_model.layers[0].mlp
    assert is_private(compiled) and compiled is not target.model.layers[0].mlp
    assert compiled.down_proj is target.model.layers[0].mlp.down_proj
    after = {name: module.__dict__.get("forward") for name, module in target.named_modules()}
    assert after == before


def ours_parts(target: Any) -> Any:
    from sparrow_kernels.models.families import Parts

    return Parts(target).private()
