"""Greedy speculative text equals `generate`, for every family, prompt, batch and tree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_cases import FAMILIES, TEXT_ONLY, draft_for, prompts, tiny, turns

from sparrow_kernels.models import SparrowDecoder

NEW_TOKENS = 20
SETTINGS = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
PROMPTS = {
    "text": [turns("What is the answer?")],
    "image": [turns(None, "What is this?")],
    "clip": [turns(24, "What happens?")],
    # Its temporal positions pass those of the text behind it.
    "long clip": [turns(64, "And now?")],
    "clips": [turns("First", 8, "then", 4, "and", None, "?")],
    "two turns": [
        [*turns(8, "What?"), {"role": "assistant", "content": "A thing."}, *turns("More?")]
    ],
    "ragged batch": [
        turns("Why?"),
        turns(24, "What happens in the clip?"),
        turns(None, "A longer question about one image only."),
        turns(4, 8, "Two?"),
    ],
}
TREES = ["1-1-1", "6-5-1", "25-5-8", "30-4-8", "60-6-10"]


def compared(name: str, inputs: dict[str, Any], tree: str, **settings: Any) -> list[torch.Tensor]:
    """Texts of transformers' own loop, of ours, and of ours without speculation."""
    target, _ = tiny(name)
    settings = {**SETTINGS, **settings}
    decoder = SparrowDecoder(target, draft_for(name), tree)
    plain = target.generate(**inputs, **settings)
    ours = decoder.generate(**inputs, **settings).sequences
    return [plain, ours, decoder.generate_plainly(**inputs, **settings).sequences]


@pytest.mark.parametrize("chats", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("name", FAMILIES)
def test_every_prompt_keeps_the_text(name: str, chats: list[Any]) -> None:
    plain, ours, plainly = compared(name, prompts(tiny(name).processor, *chats), "9-2-4")
    assert torch.equal(plain, ours)
    assert torch.equal(plain, plainly)
    assert len(plain[:, -NEW_TOKENS:].unique()) > 5, "a text that repeats itself shows little"


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_tree_keeps_the_text(name: str, tree: str) -> None:
    inputs = prompts(tiny(name).processor, *PROMPTS["ragged batch"])
    plain, ours, _ = compared(name, inputs, tree)
    assert torch.equal(plain, ours)


@pytest.mark.parametrize("name", TEXT_ONLY)
def test_text_only_targets(name: str) -> None:
    for chats in ([turns("Why?")], [turns("Why?"), turns("What is the answer to all?")]):
        for tree in ("6-5-1", "30-4-8"):
            plain, ours, plainly = compared(name, prompts(tiny(name).processor, *chats), tree)
            assert torch.equal(plain, ours)
            assert torch.equal(plain, plainly)
