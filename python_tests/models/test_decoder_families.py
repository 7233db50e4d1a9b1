"""Greedy speculative text equals `generate`, for every family, prompt, batch and tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from family_cases import (
    FAMILIES,
    GENERIC,
    MIXTURES,
    TEXT_ONLY,
    draft_for,
    prompts,
    tiny,
    turns,
    written,
)

from sparrow_kernels.drafting import families
from sparrow_kernels.models import SparrowDecoder, request
from sparrow_kernels.models.prompt import Chunk, RequestPrompt, take_prompts

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
    settings = {**SETTINGS, **settings}
    decoder = SparrowDecoder(tiny(name).target, draft_for(name), tree)
    ours = decoder.generate(**inputs, **settings).sequences
    plainly = decoder.generate_plainly(**inputs, **settings).sequences
    return [written(name, inputs, **settings), ours, plainly]


# The same code with other names, or with another MLP: fewer cases show as much.
ALIKE = [*GENERIC, *MIXTURES]
CASES = [(name, chats) for name in FAMILIES for chats in PROMPTS]
CASES += [(name, chats) for name in ALIKE for chats in ("image", "clips", "two turns")]
SLOW = [case for case in CASES if case[1] not in ("clips", "ragged batch")]
CASES = [case for case in CASES if case not in SLOW]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW]
GROWN = [(name, tree) for name in FAMILIES for tree in TREES]
GROWN += [(name, tree) for name in ALIKE for tree in ("6-5-1", "30-4-8")]


def test_every_family_by_name_is_tried() -> None:
    assert set(families.FAMILIES) == {*FAMILIES, *MIXTURES}


@pytest.mark.parametrize(("name", "chats"), CASES)
def test_every_prompt_keeps_the_text(name: str, chats: str) -> None:
    inputs = prompts(tiny(name).processor, *PROMPTS[chats])
    plain, ours, plainly = compared(name, inputs, "9-2-4")
    assert torch.equal(plain, ours)
    assert torch.equal(plain, plainly)
    assert len(plain[:, -NEW_TOKENS:].unique()) > 5, "a text that repeats itself shows little"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tree"), GROWN)
def test_every_tree_keeps_the_text(name: str, tree: str) -> None:
    inputs = prompts(tiny(name).processor, *PROMPTS["ragged batch"])
    ours = SparrowDecoder(tiny(name).target, draft_for(name), tree).generate(**inputs, **SETTINGS)
    assert torch.equal(written(name, inputs, **SETTINGS), ours.sequences)


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, 17])
@pytest.mark.parametrize("name", [*FAMILIES, *ALIKE, "Llama"])
def test_prefills_in_chunks_keep_the_text(name: str, size: int) -> None:
    """Chunks begin and end within clips, and some hold none of them."""
    chats = [turns("Why?")]
    if name not in TEXT_ONLY:
        chats.append(turns("First", 8, "then", 4, "and", None, "?"))
    target, processor = tiny(name)
    inputs = prompts(processor, *chats)
    plain = written(name, inputs, **SETTINGS)
    with recorded_chunks() as chunks:
        ours = SparrowDecoder(target, draft_for(name), "6-5-1").generate(
            **inputs, **SETTINGS, prefill_chunk_size=size
        )
    assert torch.equal(plain, ours.sequences)
    assert max(chunks) == size
    assert sum(chunks) == int(inputs["attention_mask"].sum())


@pytest.mark.parametrize(
    "name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl"]
)
def test_several_texts_of_a_prompt_see_its_clip(name: str) -> None:
    """Drawn, but from one token alone: each is the greedy one."""
    chat = turns(None, "What?") if name == "internvl" else turns(8, "What happens?")
    target, processor = tiny(name)
    inputs = prompts(processor, chat)
    settings = {"do_sample": True, "top_k": 1, "num_return_sequences": 2, "max_new_tokens": 12}
    expected = target.generate(**inputs, **settings)
    decoder = SparrowDecoder(target, draft_for(name), "6-5-1")
    assert torch.equal(decoder.generate(**inputs, **settings).sequences, expected)
    assert torch.equal(decoder.generate_plainly(**inputs, **settings).sequences, expected)


@pytest.mark.parametrize("name", [*FAMILIES, *ALIKE])
def test_placeholders_are_where_features_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is right without, but a draft would read a clip's rows as text."""
    target, processor = tiny(name)
    found = []

    def take(parts: Any, *given: Any) -> list[RequestPrompt]:
        for each in (taken := take_prompts(parts, *given)):
            text = (each.embeddings[0] == target.get_input_embeddings()(each.ids)).all(dim=-1)
            found.append((each.visual, ~text))
        return taken

    monkeypatch.setattr(request, "take_prompts", take)
    inputs = prompts(processor, *PROMPTS["ragged batch"])
    SparrowDecoder(target, draft_for(name)).generate(**inputs, **{**SETTINGS, "max_new_tokens": 1})
    for visual, features in found:
        assert torch.equal(visual, features)
    assert sum(bool(visual.any()) for visual, _ in found) >= 2


@contextmanager
def recorded_chunks() -> Iterator[list[int]]:
    """Rows of each chunk that a prompt is split into."""
    rows: list[int] = []
    real = RequestPrompt.chunks

    def chunks(self: RequestPrompt, begin: int, size: int) -> Iterator[Chunk]:
        for chunk in real(self, begin, size):
            rows.append(chunk.end - chunk.begin)
            yield chunk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RequestPrompt, "chunks", chunks)
        yield rows


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT_ONLY)
def test_text_only_targets(name: str) -> None:
    for chats in ([turns("Why?")], [turns("Why?"), turns("What is the answer to all?")]):
        for tree in ("6-5-1", "30-4-8"):
            plain, ours, plainly = compared(name, prompts(tiny(name).processor, *chats), tree)
            assert torch.equal(plain, ours)
            assert torch.equal(plain, plainly)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "Llama"])
def test_autocast_takes_a_prompt_of_which_few_rows_are_read(name: str) -> None:
    target, processor = tiny(name)
    inputs = prompts(processor, turns("Why?" * 20) if name == "Llama" else turns(24, "Why?"))
    with torch.autocast("cpu", torch.bfloat16):
        ours = SparrowDecoder(target, draft_for(name), "6-5-1").generate(**inputs, **SETTINGS)
    assert ours.stats.new_tokens == NEW_TOKENS
