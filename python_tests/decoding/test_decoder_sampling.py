"""Sampled text has the target's distribution, with drafted trees and with drawn ones."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from decoding_cases import prompt, random_pair

from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.models import SparrowDecoder

TOP_K = 3
DRAWS, AT_ONCE = 300, 20


def _processed(target, ids: torch.Tensor, temperature: float) -> dict[int, float]:
    """The exact next-token distribution under temperature and top-k."""
    with torch.no_grad():
        logits = target(input_ids=ids).logits[0, -1].double() / temperature
    best = logits.topk(TOP_K)
    return dict(zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True))


def _joint(target, ids: torch.Tensor, temperature: float) -> dict[tuple[int, int], float]:
    """Exact probabilities of the second and third new token, summed over the first."""
    joint: dict[tuple[int, int], float] = {}
    for first, weight in _processed(target, ids, temperature).items():
        after_first = torch.cat([ids, torch.tensor([[first]])], dim=1)
        for second, second_weight in _processed(target, after_first, temperature).items():
            after_second = torch.cat([after_first, torch.tensor([[second]])], dim=1)
            for third, third_weight in _processed(target, after_second, temperature).items():
                key = (second, third)
                joint[key] = joint.get(key, 0.0) + weight * second_weight * third_weight
    return joint


@pytest.mark.slow
@pytest.mark.parametrize("tree", ["9-2-4", "4x2", "9-2-4:marginals"])
def test_joint_distribution_of_a_step(tree: str) -> None:
    """The first token comes from the prefill; the two after it from speculative steps."""
    target, draft, processor = random_pair()
    inputs = prompt(processor, [], text="a")
    temperature = 6.0
    joint = _joint(target, inputs["input_ids"], temperature)
    decoder = SparrowDecoder(target, draft, TreeConfig.parse(tree))
    counts = dict.fromkeys(joint, 0)
    torch.manual_seed(0)
    settings = {"do_sample": True, "temperature": temperature, "top_k": TOP_K}
    for _ in range(DRAWS // AT_ONCE):
        out = decoder.generate(
            **inputs, max_new_tokens=3, num_return_sequences=AT_ONCE, **settings
        ).sequences
        for text in out[:, -2:].tolist():
            counts[tuple(text)] += 1  # a KeyError is an impossible token
    chi_square = sum((counts[k] - DRAWS * joint[k]) ** 2 / (DRAWS * joint[k]) for k in joint)
    freedom = len(joint) - 1
    # Wilson-Hilferty: the chance of a larger value is about one in a thousand.
    bound = freedom * (1 - 2 / (9 * freedom) + 3.1 * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi_square < bound, (chi_square, bound)


def test_seeded_runs_repeat() -> None:
    target, draft, processor = random_pair()
    inputs = prompt(processor, [8])
    texts = []
    for tree, _ in itertools.product(["9-2-4", "4x2"], range(2)):
        torch.manual_seed(3)
        decoder = SparrowDecoder(target, draft, TreeConfig.parse(tree))
        out = decoder.generate(**inputs, max_new_tokens=12, do_sample=True, temperature=3.0)
        texts.append(out.sequences[0].tolist())
    assert texts[0] == texts[1]
    assert texts[2] == texts[3]


def test_drawn_trees_survive_a_low_temperature() -> None:
    """At a temperature where the draft has one id with mass, siblings must still be draws."""
    target, draft, processor = random_pair()
    inputs = prompt(processor, [8])
    decoder = SparrowDecoder(target, draft, TreeConfig(branching=[4, 2, 1]))
    sampled = decoder.generate(
        **inputs, max_new_tokens=16, do_sample=True, temperature=1e-3
    ).sequences
    assert torch.equal(sampled, target.generate(**inputs, max_new_tokens=16, do_sample=False))
