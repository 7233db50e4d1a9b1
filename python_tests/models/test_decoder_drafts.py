"""Drafts that read inner layers, or the clip: every family's states, and the target's own text."""

from __future__ import annotations

from functools import cache
from typing import Any

import graph_stand_in
import pytest
import torch
from decoding_cases import requested
from family_cases import FAMILIES, TEXT_ONLY, VOCABULARY, prompts, tiny, turns, written

from sparrow_kernels.decoding import graphs as graphs_module
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.rows import RowRules
from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models.families import Parts

NAMES = [*FAMILIES, "Llama", "Qwen3"]
CHATS = [turns(8, "What happens?"), turns("Why?"), turns(None, "And here, in this one?")]
SETTINGS = {"max_new_tokens": 12, "do_sample": False}
EAGLE3 = {
    "layer_ids": (0, 1, 2),
    "paired": True,
    "final_norm": True,
    "draft_vocab_size": 100,
    "norm_before_residual": True,
    "state_norms": 3,
}
DRAFTS: dict[str, dict[str, Any]] = {
    "eagle3": EAGLE3,
    "eagle3, normed feedback": {**EAGLE3, "feeds_normed": True, "norm_before_residual": False},
    "eagle3, placeholders": {**EAGLE3, "sees_clip": "placeholders", "positions": "mrope"},
    "eagle2, states": {"sees_clip": "states", "positions": "sequence"},
    "msd": {"sees_clip": "embeddings"},
    "sparrow in training": {"sees_clip": "middle", "positions": "mrope"},
    "vispec": {"clip_queries": 2, "clip_heads": 4, "sees_clip": "adaptor"},
    "hivis": {"step_shifts": 3, "positions": "sequence"},
    "own embedding": {"own_embedding": True, "slice_clip": True},
}


@cache
def draft(family: str, kind: str) -> SparrowDraft:
    torch.manual_seed(1)
    made = SparrowDraft.for_target(tiny(family).target, initializer_range=0.1, **DRAFTS[kind])
    if made.config.step_shifts:
        made.network.step_shift.data.normal_()
    return made.eval()


def chats(family: str, *asked: list[Any]) -> dict[str, Any]:
    if family in TEXT_ONLY:
        asked = tuple(turns(*[each for each in chat if isinstance(each, str)]) for chat in asked)
    return prompts(tiny(family).processor, *(asked or CHATS))


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("family", NAMES)
@torch.no_grad()
def test_states_are_transformers_s(family: str, chunk: int | None) -> None:
    """By transformers' own numbers, at text rows; none of them before the clip's last one."""
    target = tiny(family).target
    inputs = prompts(tiny(family).processor, turns("Why? And what happens then, in the end?"))
    if family not in TEXT_ONLY:
        inputs = prompts(tiny(family).processor, turns(8, "What happens?"))
    layers = tuple(range(target.config.get_text_config().num_hidden_layers + 1))
    rules = RowRules(layer_ids=layers)
    prefill, _, _ = requested(target, inputs, prefill_chunk_size=chunk).prefill(rules)
    output = target(**inputs, output_hidden_states=True)
    theirs = torch.cat([each[0] for each in output.hidden_states], dim=-1)
    (rows,) = prefill.rows
    visual = Parts(target).visual_mask(inputs["input_ids"])[0]
    plan = rules.plan(visual)
    assert torch.equal(rows.tokens, inputs["input_ids"][0, plan.rows])
    is_text = ~visual[plan.before]  # what DeepStack adds behind a layer, it adds to a clip's slots
    expected = theirs[plan.before][is_text]
    torch.testing.assert_close(rows.states[is_text], expected, atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(prefill.states[0], theirs[-1], atol=2e-4, rtol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAFTS)
@pytest.mark.parametrize("family", NAMES)
def test_the_text_is_the_target_s(family: str, kind: str) -> None:
    """A ragged batch: two clips, or text alone."""
    inputs = chats(family)
    plain = written(family, inputs, **SETTINGS)
    decoder = SparrowDecoder(tiny(family).target, draft(family, kind), "12-4-3")
    assert torch.equal(decoder.generate(**inputs, **SETTINGS).sequences, plain)
    again = decoder.generate(**inputs, **SETTINGS)
    assert torch.equal(again.sequences, plain), "in the buffers of the first call"


@pytest.mark.parametrize("kind", ["eagle3", "sparrow in training", "vispec", "own embedding"])
def test_a_second_question_finds_the_states_of_the_first(kind: str) -> None:
    """What a draft drafts is the same whether its rows were kept or made again."""
    family = "qwen2_5_vl"
    first, second = turns(8, "What happens?"), turns(8, "What happens?", "This.", "And then?")
    decoder = SparrowDecoder(tiny(family).target, draft(family, kind), "12-4-3")
    fresh = decoder.generate(**chats(family, second), **SETTINGS)
    kept = decoder.generate(**chats(family, first), **SETTINGS)
    found = decoder.generate(**chats(family, second), **SETTINGS, cache=kept.cache)
    assert found.stats.reused_slots > 20
    assert torch.equal(found.sequences, fresh.sequences)
    assert found.stats.histogram == fresh.stats.histogram


def test_plain_and_speculative_calls_share_a_cache() -> None:
    """Also where a draft's positions were switched between them: what is kept is the same."""
    family = "qwen2_5_vl"
    first, second = turns(8, "What happens?"), turns(8, "What happens?", "This.", "And then?")
    target = tiny(family).target
    made = SparrowDraft.for_target(target, initializer_range=0.1).eval()
    decoder = SparrowDecoder(target, made, "12-4-3")
    asked = decoder.generate(**chats(family, first), **SETTINGS)
    plain = decoder.generate_plainly(**chats(family, second), **SETTINGS, cache=asked.cache)
    assert plain.stats.reused_slots > 20
    asked = decoder.generate_plainly(**chats(family, first), **SETTINGS)
    made.config.positions = "sequence"
    again = decoder.generate(**chats(family, second), **SETTINGS, cache=asked.cache)
    assert again.stats.reused_slots > 20
    assert torch.equal(again.sequences, plain.sequences)


@pytest.mark.parametrize("kind", ["eagle3", "vispec", "hivis"])
def test_graphs_replay_such_drafts(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    honest = graphs_module.GraphedStep.__init__
    monkeypatch.setattr(
        graphs_module.GraphedStep,
        "__init__",
        lambda self, step, eager=(): honest(self, step, eager, graph_stand_in.capture),
    )
    family = "qwen2_5_vl"
    runs = [
        SparrowDecoder(
            tiny(family).target, draft(family, kind), "12-4-3", cuda_graph=graphs
        ).generate(**chats(family), **SETTINGS)
        for graphs in (False, True)
    ]
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    assert runs[0].stats.histogram == runs[1].stats.histogram


@pytest.mark.parametrize("kind", ["eagle3", "msd"])
def test_sampling_draws_from_the_mapped_ids(kind: str) -> None:
    """A drawn tree over a reduced vocabulary: nothing outside it is drafted, and a seed repeats."""
    family = "qwen2_5_vl"
    decoder = SparrowDecoder(tiny(family).target, draft(family, kind), "4x2x1")
    settings = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.3}
    texts = [
        decoder.generate(
            **chats(family), **settings, generator=torch.Generator().manual_seed(seed)
        ).sequences
        for seed in (3, 3, 4)
    ]
    assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], texts[2])
    head = decoder.draft.draft_vocabulary
    assert head is None or (len(head) == 100 and max(head) < VOCABULARY)


def test_a_draft_that_cannot_see_it_is_refused_by_name() -> None:
    target = tiny("qwen2_5_vl").target
    with pytest.raises(ValueError, match="must be something the draft has, got 'adaptor'"):
        SparrowDraft.for_target(target, sees_clip="adaptor")
    with pytest.raises(ValueError, match="sees_clip must be nothing, states or placeholders"):
        SparrowDraft.for_target(target, paired=True, sees_clip="middle")
    with pytest.raises(ValueError, match="positions must be one of compact, sequence, mrope"):
        SparrowDraft.for_target(target, positions="gapped")
    draft = SparrowDraft.for_target(target, **{**EAGLE3, "layer_ids": (1, 2, 9)})
    with pytest.raises(ValueError, match="layer_ids must be of 0 to 3, .* got 9"):
        SparrowDecoder(target, draft).generate(**chats("qwen2_5_vl"), **SETTINGS)
