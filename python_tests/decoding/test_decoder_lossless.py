"""Greedy speculative text equals plain greedy text, whatever the tree, prompt or processors."""

from __future__ import annotations

import pytest
import torch
from decoding_cases import prompt, random_pair
from transformers import StoppingCriteria, StoppingCriteriaList

from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.models import SparrowDecoder, sparrow_generate
from sparrow_kernels.models.generate import plain_generate

TREES = ["6-5-1", "25-5-8", "30-4-8", "2-1-1", "9-2-4", "4x2x1", "64-5-8:marginals"]
NEW_TOKENS = 24


def both(tree: str, inputs: dict, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    target, draft, _ = random_pair()
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **settings}
    plain = target.generate(**inputs, **settings)
    decoder = SparrowDecoder(target, draft, TreeConfig.parse(tree))
    return plain, decoder.generate(**inputs, **settings).sequences


@pytest.mark.parametrize("tree", TREES)
def test_every_tree_keeps_the_text(tree: str) -> None:
    plain, ours = both(tree, prompt(random_pair()[2], [8]))
    assert torch.equal(plain, ours)


@pytest.mark.parametrize("clips, images", [([], 0), ([80], 0), ([8, 24], 1), ([4, 4, 4], 0)])
def test_every_prompt_keeps_the_text(clips: list[int], images: int) -> None:
    """80 frames: the clip's temporal ids pass the ids of the text behind it."""
    inputs = prompt(random_pair()[2], clips, images=images)
    plain, ours = both("9-2-4", inputs)
    assert torch.equal(plain, ours)


PROCESSORS = {
    "repetition": {"repetition_penalty": 1.7},
    "ngram": {"no_repeat_ngram_size": 1},
    "min_new_tokens": {"min_new_tokens": 10},
    "suppress": {"suppress_tokens": [3, 50, 60]},
    "bad_words": {"bad_words_ids": [[40], [41, 42]]},
    "forced_eos": {"forced_eos_token_id": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_are_honoured(name: str) -> None:
    inputs = prompt(random_pair()[2], [8])
    without, _ = both("6-5-1", inputs)
    plain, ours = both("6-5-1", inputs, **PROCESSORS[name])
    assert torch.equal(plain, ours)
    if name in ("repetition", "ngram"):
        assert not torch.equal(without, plain), "the processor changes nothing: a weak case"


def test_generation_config_of_the_target_is_honoured() -> None:
    target, draft, processor = random_pair()
    inputs = prompt(processor, [8])
    before = target.generation_config.repetition_penalty
    target.generation_config.repetition_penalty = 1.5
    try:
        plain = target.generate(**inputs, max_new_tokens=NEW_TOKENS)
        ours = target.generate(
            **inputs, max_new_tokens=NEW_TOKENS, custom_generate=sparrow_generate, draft=draft
        )
    finally:
        target.generation_config.repetition_penalty = before
    assert torch.equal(plain, ours)


@pytest.mark.parametrize("new_tokens", [1, 2, 3, 7])
def test_length_limits_are_exact(new_tokens: int) -> None:
    plain, ours = both("25-5-8", prompt(random_pair()[2], [8]), max_new_tokens=new_tokens)
    assert torch.equal(plain, ours)


class _StopsAtThird(StoppingCriteria):
    """Stops at the third occurrence of a token; records the lengths it was asked about."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.lengths: list[int] = []

    def __call__(self, input_ids, scores, **_):
        self.lengths.append(input_ids.shape[1])
        return (input_ids == self.token).sum(dim=1) >= 3


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.3}])
def test_custom_criteria_see_every_prefix_once(settings: dict) -> None:
    target, draft, processor = random_pair()
    inputs = prompt(processor, [8])
    free = target.generate(**inputs, max_new_tokens=40, do_sample=False, **settings)
    token = int(free[0, -1])
    runs = []
    for custom in ({}, {"custom_generate": sparrow_generate, "draft": draft}):
        criterion = _StopsAtThird(token)
        out = target.generate(
            **inputs,
            max_new_tokens=40,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([criterion]),
            **settings,
            **custom,
        )
        runs.append((out, criterion.lengths))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


@pytest.mark.parametrize("place", [0, 3, 10])
def test_stop_ids_anywhere(place: int) -> None:
    """Any emitted token may be the stop id, also several of them."""
    target, _, processor = random_pair()
    inputs = prompt(processor, [8])
    free = target.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    length = inputs["input_ids"].shape[1]
    plain, ours = both("9-2-4", inputs, eos_token_id=[int(free[0, length + place]), 1])
    assert torch.equal(plain, ours)


def test_plain_loop_equals_generate() -> None:
    target, _, processor = random_pair()
    inputs = prompt(processor, [24])
    ours = target.generate(**inputs, max_new_tokens=NEW_TOKENS, custom_generate=plain_generate)
    assert torch.equal(ours, target.generate(**inputs, max_new_tokens=NEW_TOKENS))
