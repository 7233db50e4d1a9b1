"""Trained drafts through every foreign format and back: same weights, same words, same speed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from draft_files import FORMATS, write
from foreign_writer import SETTINGS, as_format
from trained_drafts import embedded, question, trained

from sparrow_kernels import SparrowDecoder, load_draft
from sparrow_kernels.drafting import SparrowDraft

NEW_TOKENS = 40
LEAST_EMITTED = 1.7

pytestmark = pytest.mark.slow


@cache
def _trained(settings: str) -> SparrowDraft:
    return trained(**json.loads(settings))


def draft_of(name: str) -> SparrowDraft:
    """A draft that this format can say; formats that say the same share one."""
    return _trained(json.dumps(SETTINGS[name], sort_keys=True))


def same_draft(name: str) -> str:
    """The first format that says this one's draft."""
    return next(each for each in FORMATS if SETTINGS[each] == SETTINGS[name])


@cache
def plain(seed: int) -> torch.Tensor:
    """What the target says of a clip."""
    settings: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    return embedded()[0].generate(**question(seed), **settings)


@cache
def emitted_before(name: str, tree: str, clips: int = 1) -> list[float]:
    return emitted(draft_of(name), tree, clips)


def emitted(draft: SparrowDraft, tree: str = "6-5-1", clips: int = 1) -> list[float]:
    """Tokens a target call, of each clip; the text is the target's."""
    decoder = SparrowDecoder(embedded()[0], draft, tree)
    found = []
    for seed in range(100, 100 + clips):
        inputs = question(seed)
        result = decoder.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        assert torch.equal(result.sequences, plain(seed))
        found.append(result.stats.mean_emitted)
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_a_trained_draft_is_as_good_after_it_was_written(tmp_path: Path, name: str) -> None:
    before = draft_of(name)
    table = embedded()[0].get_input_embeddings().weight
    folder = write(as_format(before, name, table), tmp_path / "theirs")
    after = load_draft(folder, embedded()[0], probe=False)
    assert after.state_dict().keys() >= before.state_dict().keys()
    expected = emitted_before(same_draft(name), "6-5-1", 2)
    assert min(expected) > LEAST_EMITTED
    assert emitted(after, clips=2) == expected
    assert emitted(after, "12-4-3") == emitted_before(same_draft(name), "12-4-3")
    after.save_pretrained(tmp_path / "ours")
    kept = load_draft(tmp_path / "ours", embedded()[0])
    assert kept.spec == after.spec
    assert emitted(kept) == expected[:1]


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        *((name, "compact") for name in ("eagle2", "specforge", "msd_qwen", "vispec", "sparrow")),
        *((name, each) for name in ("specforge", "sparrow") for each in ("sequence", "mrope")),
    ],
)
def test_it_may_see_the_clip_and_the_text_stays(tmp_path: Path, name: str, positions: str) -> None:
    before = draft_of(name)
    table = embedded()[0].get_input_embeddings().weight
    folder = write(as_format(before, name, table), tmp_path)
    draft = load_draft(folder, embedded()[0], sees_clip="trained", positions=positions, probe=False)
    assert draft.config.sees_clip == draft.config.trained_to_see != "nothing"
    emitted(draft)
