"""A draft with a reduced vocabulary or 8-bit weights: same text, and only ids it may draft."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_cases import VOCABULARY, draft_for, prompts, tiny, turns
from torch import nn

from sparrow_kernels.decoding import step as step_module
from sparrow_kernels.drafting.head import DraftHead, frequent_ids
from sparrow_kernels.drafting.int8 import Int8Linear
from sparrow_kernels.models import SparrowDecoder
from sparrow_kernels.models.pair import load_pair

SETTINGS: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{"int8": True}, {"vocabulary": range(20, 150)}])
@pytest.mark.parametrize("tree", ["6-5-1", "30-4-8", "4x2x1"])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "Llama"])
def test_the_text_stays(name: str, tree: str, kind: dict[str, Any]) -> None:
    target, processor = tiny(name)
    chats = [turns("Why is that?"), turns("What is the answer?")]
    inputs = prompts(processor, *chats)
    decoder = SparrowDecoder(target, draft_for(name).lighter(**kind), tree)
    for settings in (SETTINGS, {**SETTINGS, "do_sample": True, "top_k": 1}):
        plain = target.generate(**inputs, **settings)
        assert torch.equal(decoder.generate(**inputs, **settings).sequences, plain)


def test_only_ids_of_the_vocabulary_are_drafted(monkeypatch: pytest.MonkeyPatch) -> None:
    target, processor = tiny("qwen2_5_vl")
    drafted: set[int] = set()
    honest = step_module.grow_tree

    def spy(*arguments: Any) -> Any:
        tree = honest(*arguments)
        drafted.update(tree.tokens[0, 1:].tolist())
        return tree

    monkeypatch.setattr(step_module, "grow_tree", spy)
    ids = list(range(30, 130))
    decoder = SparrowDecoder(target, draft_for("qwen2_5_vl").lighter(vocabulary=ids), "30-4-8")
    settings = {**SETTINGS, "eos_token_id": 40}
    decoder.generate(**prompts(processor, turns("Why?")), **settings)
    assert drafted and drafted <= set(ids) - {40}


def test_a_reduced_head_is_the_head_of_its_ids() -> None:
    head = nn.Linear(16, 100)
    banned, ids = torch.tensor([7, 50]), torch.tensor([3, 7, 20, 41, 99])
    hidden = torch.randn(4, 3, 16)
    logits = head(hidden).detach()
    masked = torch.full_like(logits, float("-inf"))
    kept = torch.tensor([3, 20, 41, 99])
    masked[..., kept] = logits[..., kept]
    reduced = DraftHead(head, banned, ids)
    with torch.no_grad():
        torch.testing.assert_close(reduced.logits(hidden), masked)
        scores, best = reduced.best(hidden, 3)
    expected = masked.log_softmax(-1).topk(3)
    assert torch.equal(best, expected.indices)
    torch.testing.assert_close(scores, expected.values)
    with pytest.raises(ValueError, match="got 1 ids, all of them stop ids or placeholders"):
        DraftHead(head, banned, torch.tensor([7]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bits_round_by_half_a_step(dtype: torch.dtype) -> None:
    linear = nn.Linear(48, 64).to(dtype)
    rows = torch.randn(2, 5, 48, dtype=dtype)
    light = Int8Linear(linear)
    rounded = light.weight.float() * light.scale.float()[:, None]
    step = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
    slack = 1.01 if dtype == torch.float32 else 2.0
    assert ((rounded - linear.weight.float()).abs() <= slack * step.float() / 2 + 1e-6).all()
    expected = rows.float() @ rounded.T + linear.bias.float()
    torch.testing.assert_close(light(rows).float(), expected, rtol=3e-2, atol=3e-2)


def test_ids_that_are_none_are_refused() -> None:
    draft = draft_for("qwen2_5_vl")
    with pytest.raises(ValueError, match=f"ids of 0 to {VOCABULARY - 1}, got 5 to {VOCABULARY}"):
        draft.lighter(vocabulary=[5, VOCABULARY])
    with pytest.raises(ValueError, match="got none"):
        draft.lighter(vocabulary=[])
    target = tiny("qwen2_5_vl").target
    with pytest.raises(ValueError, match="at most 3 children a node"):
        SparrowDecoder(target, draft.lighter(vocabulary=[1, 2, 3]), "9-2-4")


def test_what_is_lighter_stays_so_when_it_gets_lighter_still() -> None:
    draft = draft_for("Llama").lighter(int8=True).lighter(vocabulary=[3, 1])
    assert draft.draft_vocabulary == (1, 3)
    network = draft.network_for(torch.empty(0))
    assert any(isinstance(module, Int8Linear) for module in network.modules())
    whole = draft_for("Llama")
    assert whole.draft_vocabulary is None and whole.network_for(torch.empty(0)) is whole.network


def test_the_most_frequent_ids() -> None:
    assert frequent_ids([[5, 5, 1], [9, 5, 9, 2]], 2) == [5, 9]
    with pytest.raises(ValueError, match="corpus must hold an id"):
        frequent_ids([[]], 2)


@pytest.mark.slow
def test_the_embedded_draft_loses_little() -> None:
    """Captions use few words: a vocabulary counted on some keeps what the whole one accepts."""
    pair = load_pair()
    from sparrow_kernels.embedded.clips import make_clip, render
    from sparrow_kernels.training.small_target import clip_inputs

    frames = render(make_clip(500, 3))
    inputs = dict(clip_inputs(pair.processor, frames, 2.0, "Describe the video in detail."))
    settings = {"max_new_tokens": 100, "do_sample": False}
    whole = SparrowDecoder(pair.target, pair.draft).generate(**inputs, **settings)
    ids = frequent_ids([whole.sequences[0, inputs["input_ids"].shape[1] :].tolist()], 60)
    for kind in ({"int8": True}, {"vocabulary": ids}):
        lighter = SparrowDecoder(pair.target, pair.draft.lighter(**kind))
        result = lighter.generate(**inputs, **settings)
        assert torch.equal(result.sequences, whole.sequences)
        assert result.stats.mean_emitted > 0.8 * whole.stats.mean_emitted
