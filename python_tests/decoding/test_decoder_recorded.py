"""Recorded steps: the same bits, and nothing is recorded where somebody would miss a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_cases import VOCABULARY, draft_for, prompts, tiny, turns
from mimic_draft import mimic
from torch import Tensor

import sparrow_kernels
from sparrow_kernels.decoding import TreeConfig, growth
from sparrow_kernels.decoding.coins import Coins
from sparrow_kernels.decoding.recorded_step import RecordedStep
from sparrow_kernels.decoding.recording import Recording
from sparrow_kernels.decoding.recording_function import function_of
from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models.bridge import last_layer
from sparrow_kernels.models.families import Parts
from sparrow_kernels.ops.attention import reference

NAME = "qwen2_5_vl"
CHATS = [turns(8, "What happens?"), turns("Why?")]
SETTINGS = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": 319}


def decoder(tree: str, **settings: Any) -> SparrowDecoder:
    return SparrowDecoder(tiny(NAME).target, draft_for(NAME), tree, **{"recorded": True} | settings)


def recorded_step(ours: SparrowDecoder, way: str = "speculative") -> RecordedStep:
    (workspace,) = ours._workspaces[way]._kept
    assert isinstance(workspace.graphs, RecordedStep)
    return workspace.graphs


@torch.inference_mode()
def test_a_replay_does_what_was_recorded_once() -> None:
    weight, state = torch.randn(4, 4), torch.zeros(4)
    made: dict[str, Any] = {}

    def part(given: tuple[Tensor, list[Tensor]]) -> None:
        row, (other,) = given
        twice = torch.sin(row) + torch.sin(row)  # once is enough
        before = state + 1  # not the same as after the write, which must not be lost
        state.add_(row[:4])
        after = state + 1
        torch.cos(row)  # nobody reads it
        view = weight.t()[0]  # made once
        halves = torch.cat([other, twice]).chunk(2)
        made["result"] = (twice, [before, after, view.contiguous()], halves[1], row, None)

    def given() -> tuple[Tensor, list[Tensor]]:
        return torch.randn(6), [torch.randn(6)]

    first = given()
    recording = Recording(first)
    recording(lambda: part(first))
    assert recording.refused is None
    again = function_of(recording, made["result"])
    names = [str(call.operator) for call in recording.calls]
    assert names.count("aten.sin.default") == 2 and "aten.t.default" not in names
    source_calls = [name for name in again.__code__.co_names if name.startswith("call")]
    assert len(source_calls) == len(recording.calls) - 2, "one sin and the cos are left out"
    for _ in range(2):
        weight.uniform_()
        new, start = given(), torch.randn(4)
        state.copy_(start)
        got = again(new)
        end = state.clone()
        state.copy_(start)
        part(new)
        wanted = made["result"]
        assert torch.equal(state, end) and got[4] is None and got[3] is new[0]
        for mine, theirs in zip(
            (got[0], *got[1], got[2]), (wanted[0], *wanted[1], wanted[2]), strict=True
        ):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "look",
    [
        lambda row: row[0].item(),
        lambda row: row.tolist(),
        lambda row: bool(row.sum() > 0),
        lambda row: row[row > 0],
        lambda row: row.nonzero(),
        lambda row: row.numpy(),
    ],
    ids=["item", "tolist", "bool", "mask", "nonzero", "numpy"],
)
def test_what_looks_at_values_is_not_recorded(look: Any) -> None:
    row = torch.randn(5)
    recording = Recording((row,))
    with torch.inference_mode():
        recording(lambda: look(row))
    assert recording.refused is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tree", "settings"),
    [
        ("6-5-1", {}),
        ("9-2-4", {"output_scores": True, "output_logits": True, "return_dict_in_generate": True}),
        ("64-5-8:marginals", {}),
        ("4x2x1", {"do_sample": True, "temperature": 0.9}),
        ("9-2-4", {"do_sample": True, "temperature": 0.7, "top_p": 0.8}),
        ("9-2-4", {"repetition_penalty": 1.3}),
    ],
    ids=["chain", "best and scores", "marginals", "drawn", "sampled", "history"],
)
def test_recorded_steps_keep_text_and_scores(
    tree: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = prompts(tiny(NAME).processor, *CHATS)
    settings = {**SETTINGS, **settings}
    mimic(monkeypatch, tiny(NAME).target.generate(**inputs, **SETTINGS), VOCABULARY)
    results = []
    ours = decoder(tree)
    for each in (decoder(tree, recorded=False), ours, ours):
        torch.manual_seed(2)
        results.append(each.generate(**inputs, **settings))
    wanted = results[0]
    for got in results[1:]:
        assert torch.equal(got.sequences, wanted.sequences)
        assert got.stats.histogram == wanted.stats.histogram
        for name in ("scores", "logits"):
            mine, theirs = getattr(got, name), getattr(wanted, name)
            assert (mine is None) == (theirs is None)
            assert all(map(torch.equal, mine or (), theirs or ()))
    step = recorded_step(ours)
    looks = {"commit"} if "repetition_penalty" in settings else set()
    assert set(step.refused) == looks
    assert set(step._replays) == {"draft", "verify", "commit"} - looks


def test_a_hook_sees_every_step_and_another_backend_is_recorded_anew() -> None:
    inputs = prompts(tiny(NAME).processor, CHATS[1])
    ours, target = decoder("6-5-1"), tiny(NAME).target
    wanted = ours.generate_plainly(**inputs, **SETTINGS)
    replays = recorded_step(ours, "plain")._replays
    seen: list[int] = []
    handle = target.model.language_model.layers[0].register_forward_hook(
        lambda *_: seen.append(1) and None
    )
    try:
        got = ours.generate_plainly(**inputs, **SETTINGS)
    finally:
        handle.remove()
    assert torch.equal(got.sequences, wanted.sequences)
    assert len(seen) == 1 + got.stats.target_calls
    with sparrow_kernels.backend("reference"):
        ours.generate_plainly(**inputs, **SETTINGS)
        slow = recorded_step(ours, "plain")._replays
    functions = [
        {each for name, each in one["verify"].__globals__.items() if name.startswith("call")}
        for one in (replays, slow)
    ]
    assert [reference.tree_attention in each for each in functions] == [False, True]


def test_a_target_that_was_once_asked_for_its_hidden_states_is_recorded_as_ever() -> None:
    """transformers leaves hooks on it."""
    inputs = prompts(tiny(NAME).processor, CHATS[1])
    ours, target = decoder("6-5-1"), tiny(NAME).target
    before = target(**inputs, output_hidden_states=True).hidden_states
    layer = target.model.language_model.layers[0]
    assert layer._forward_hooks and ours.generate(**inputs, **SETTINGS).stats.target_calls > 2
    recorded_step(ours)
    after = target(**inputs, output_hidden_states=True).hidden_states
    assert all(map(torch.equal, before, after))


class Echo:
    """A draft whose outputs follow from its inputs by fixed weights."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(4)
        self._head = torch.randn(8, 11, generator=generator)
        self._embedding = torch.randn(11, 8, generator=generator)

    def best(self, hidden: Tensor, width: int) -> tuple[Tensor, Tensor]:
        best = (hidden @ self._head).log_softmax(-1).topk(width)
        return best.values, best.indices

    def grow(self, tokens: Tensor, hidden: Tensor, depth: int, slot: int, sees: Tensor) -> Tensor:
        assert sees.tolist() == [[[2 ** (slot + 1) - 1]]] * len(tokens)
        return torch.tanh(hidden + self._embedding[tokens] * depth)


@pytest.mark.parametrize("tree", [TreeConfig(6, 5, 1), TreeConfig(4, 5, 1), TreeConfig(1, 1, 1)])
def test_a_chain_is_what_ranking_comes_to(tree: TreeConfig) -> None:
    roots, hidden = torch.tensor([3, 7]), torch.randn(2, 8)
    active = torch.tensor([1, 0], dtype=torch.int32)
    arguments: tuple[Any, ...] = (Echo(), tree, roots, hidden, active)
    ranked = growth._grow_best(*arguments)
    coins = Coins(2, tree.total, roots.device)
    chained = growth.grow_tree(*arguments, 1.0, coins)
    assert torch.equal(chained.tokens, ranked.tokens)
    assert all(map(torch.equal, chained.layout, ranked.layout))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision"])
def test_the_last_layer_works_for_what_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, processor = tiny(name)
    inputs = prompts(processor, turns(48, "What happens?"))
    mlp: Any = Parts(target).language_model.layers[-1].mlp
    rows: list[int] = []
    honest = type(mlp).forward

    def forward(self: Any, hidden: Tensor) -> Tensor:
        if getattr(self, "gate_proj", None) is mlp.gate_proj:
            rows.append(hidden.shape[1])
        return honest(self, hidden)

    monkeypatch.setattr(type(mlp), "forward", forward)
    ours = SparrowDecoder(target, draft_for(name), "6-5-1", recorded=False)
    settings = {**SETTINGS, "output_logits": True}
    for chunk in (None, 29):
        results = []
        for most in (0, 256):
            monkeypatch.setattr(last_layer, "_MOST_ROWS", most)
            rows.clear()
            results.append(ours.generate(**inputs, **settings, prefill_chunk_size=chunk))
            length = inputs["input_ids"].shape[1]
            count = 1 if chunk is None else -(-length // chunk)
            run = sum(rows[:count])
            assert run == length if most == 0 else run < length
        whole, trimmed = results
        assert torch.equal(whole.sequences, trimmed.sequences)
        torch.testing.assert_close(trimmed.logits, whole.logits, rtol=1e-4, atol=1e-5)
        assert whole.stats.histogram == trimmed.stats.histogram
