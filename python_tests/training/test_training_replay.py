"""A text that is replayed fares as it does when it is decoded, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from trained_drafts import embedded, question

from sparrow_kernels import SparrowDecoder, TreeConfig
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.pair import draft_for
from sparrow_kernels.models.sequence import SequenceReader
from sparrow_kernels.training.data.encoding import stop_ids
from sparrow_kernels.training.data.rows import wanted_layers
from sparrow_kernels.training.held_out import answered
from sparrow_kernels.training.replay import known_text, mean_of, replay


def replayed(
    target: Any, draft: SparrowDraft, inputs: dict[str, Any], tree: str, new_tokens: int
) -> list[int]:
    rules = draft.config.row_rules()
    reader = SequenceReader(target, wanted_layers(rules))
    states = answered(SparrowDecoder(target, draft), reader, inputs, new_tokens)
    text = known_text(states, inputs["input_ids"].shape[1], rules)
    parts = Parts(target)
    banned = [*stop_ids(target).tolist(), *parts.placeholder_ids]
    shape = TreeConfig.parse(tree)
    return replay(draft.float(), parts.embedding, parts.lm_head, text, shape, banned)


def test_an_answer_is_taken_up_to_where_the_target_writes_a_placeholder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No clip stands behind it, so no forward could read it back."""
    target, draft = embedded()[0], draft_for(embedded()[0])
    inputs, decoder = question(200), SparrowDecoder(target, draft)
    reader = SequenceReader(target, wanted_layers(draft.config.row_rules()))
    expected = answered(decoder, reader, inputs, 12)
    odd = decoder.generate_plainly(**inputs, max_new_tokens=12, do_sample=False)
    assert odd.sequences is not None
    odd.sequences[0, -4] = Parts(target).placeholder_ids[0]
    monkeypatch.setattr(decoder, "generate_plainly", lambda **_: odd)
    found = answered(decoder, reader, inputs, 12)
    assert torch.equal(found.ids, expected.ids[:-4])


@pytest.mark.slow
@pytest.mark.parametrize("new_tokens", [240, 33], ids=["to its end", "cut"])
@pytest.mark.parametrize("tree", ["6-5-1", "30-4-8", "20-6-4:marginals"])
def test_a_replay_emits_what_decoding_does(tree: str, new_tokens: int) -> None:
    target, _ = embedded()
    draft = draft_for(target)
    for seed in (200, 201):
        inputs = question(seed)
        live = SparrowDecoder(target, draft, tree).generate(
            **inputs, max_new_tokens=new_tokens, do_sample=False
        )
        found = replayed(target, draft, inputs, tree, new_tokens)
        assert mean_of(found) == pytest.approx(live.stats.mean_emitted)
        assert [*live.stats.histogram, *[0] * len(found)][: len(found)] == found
        assert mean_of(found) > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"sees_clip": "middle", "trained_to_see": "middle"},
        {"sees_clip": "states", "trained_to_see": "states"},
        {"paired": True, "layer_ids": (1, 4, 7), "fc_bias": False, "final_norm": True},
        {"sees_clip": "adaptor", "clip_queries": 2, "clip_heads": 4},
    ],
    ids=["bridge", "states", "three layers", "adaptor"],
)
def test_drafts_that_read_more(settings: dict[str, Any]) -> None:
    """Random weights hit now and then: a few tokens are drafted right."""
    target, _ = embedded()
    torch.manual_seed(1)
    draft = SparrowDraft.for_target(target, initializer_range=0.1, **settings).eval()
    inputs = question(202)
    decoder = SparrowDecoder(target, draft, "40-3-20")
    live = decoder.generate(**inputs, max_new_tokens=80, do_sample=False)
    found = replayed(target, draft, inputs, "40-3-20", 80)
    assert [*live.stats.histogram, *[0] * len(found)][: len(found)] == found
    assert sum(found[2:]) > 0
