"""Calls that overlap on one target: each gives the text it gives alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest
import torch
from decoding_cases import prompt, random_pair

from sparrow_kernels.models import SparrowDecoder, sparrow_generate

THREADS, CALLS, NEW_TOKENS = 4, 20, 10


@cache
def eager_target() -> Any:
    """The same weights, in a target that its owner has put on eager attention."""
    target = copy.deepcopy(random_pair()[0])
    target.set_attn_implementation("eager")
    return target


def _prompts() -> list[dict[str, torch.Tensor]]:
    processor = random_pair()[2]
    return [prompt(processor, [4 + 4 * n], text) for n, text in enumerate(["a", "describe"])]


def _padded_batch() -> dict[str, torch.Tensor]:
    """Two prompts of text, the shorter padded on the left."""
    ids = [prompt(random_pair()[2], [], text)["input_ids"][0] for text in ("a", "describe a b c")]
    width = max(map(len, ids))
    padded = torch.zeros(2, width, dtype=torch.int64)
    mask = torch.zeros_like(padded)
    for row, one in enumerate(ids):
        padded[row, width - len(one) :], mask[row, width - len(one) :] = one, 1
    return {"input_ids": padded, "attention_mask": mask}


def _greedy(number: int) -> torch.Tensor:
    target, draft, _ = random_pair()
    decoder = SparrowDecoder(target, draft, "9-2-4")
    inputs = _prompts()[number % 2]
    return decoder.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False).sequences


def _sampled(number: int) -> torch.Tensor:
    target, draft, _ = random_pair()
    decoder = SparrowDecoder(target, draft, ["9-2-4", "4x2"][number % 2])
    generator = torch.Generator().manual_seed(number)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": True, "temperature": 4.0}
    inputs = _prompts()[number // 2 % 2]
    return decoder.generate(**inputs, **settings, generator=generator).sequences


def _drop_in(number: int) -> torch.Tensor:
    target, draft, _ = random_pair()
    inputs = _prompts()[number % 2]
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    return target.generate(**inputs, **settings, custom_generate=sparrow_generate, draft=draft)


def _plain_padded(number: int) -> torch.Tensor:
    target = random_pair()[0]
    return target.generate(**_padded_batch(), max_new_tokens=NEW_TOKENS, do_sample=False)


def _eager(number: int) -> torch.Tensor:
    inputs = _prompts()[number % 2]
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    if number % 4 < 2:
        return eager_target().generate(**inputs, **settings)
    draft = random_pair()[1]
    return SparrowDecoder(eager_target(), draft).generate(**inputs, **settings).sequences


KINDS: list[Callable[[int], torch.Tensor]] = [_greedy, _sampled, _drop_in, _plain_padded, _eager]


@pytest.mark.slow
def test_overlapping_calls_give_the_texts_of_calls_one_after_another() -> None:
    jobs = [(KINDS[n % len(KINDS)], n) for n in range(THREADS * CALLS)]
    alone = [kind(number) for kind, number in jobs]
    assert len({tuple(text.flatten().tolist()) for text in alone}) > 10, "all alike: a weak case"
    attention = random_pair()[0].config.text_config._attn_implementation
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda job: job[0](job[1]), jobs))
    wrong = [
        f"{kind.__name__}({number})"
        for (kind, number), one, other in zip(jobs, alone, together, strict=True)
        if not torch.equal(one, other)
    ]
    assert wrong == []
    assert random_pair()[0].config.text_config._attn_implementation == attention
    assert eager_target().config.text_config._attn_implementation == "eager"


@pytest.mark.parametrize("tree", ["9-2-4", "4x2"])
def test_a_generator_repeats_whatever_else_draws(tree: str) -> None:
    target, draft, _ = random_pair()
    decoder = SparrowDecoder(target, draft, tree)

    def sample(seed: int) -> list[int]:
        torch.rand(seed + 1)  # torch's own generator moves on, and must not matter
        generator = torch.Generator().manual_seed(7)
        settings = {"max_new_tokens": 16, "do_sample": True, "temperature": 6.0}
        result = decoder.generate(**_prompts()[0], **settings, generator=generator)
        return result.sequences[0].tolist()

    before = torch.get_rng_state()
    first = sample(0)
    torch.set_rng_state(before)
    assert sample(0) == sample(3) == first
    torch.set_rng_state(before)
    decoder.generate(**_prompts()[0], max_new_tokens=8, do_sample=True, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator was used too"
