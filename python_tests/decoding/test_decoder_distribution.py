"""Sampled text has the target's distribution, whatever drafts it: counted, in a batch.

3,000 seeded draws of three tokens are held to the probabilities that transformers' own processors
give to every outcome. The statistic is chi-square over outcomes expected 5 times or more; it may
exceed its mean by 5 deviations, which chance does less than once in a million runs.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models import SparrowDecoder

VOCABULARY = 6
LENGTH = 3
DRAWS = 3_000
PROMPTS = torch.tensor([[0, 3, 1, 4], [2, 2, 5, 1]])
"""The first is padded: its request has three tokens."""
MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])


@cache
def target() -> Any:
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = hf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(18 if parameter.dim() == 2 else 1)
    return model


@cache
def draft() -> SparrowDraft:
    torch.manual_seed(1)
    return SparrowDraft.for_target(target(), initializer_range=0.4).eval()


def exact(prompt: Tensor, settings: dict[str, Any]) -> dict[tuple[int, ...], float]:
    """The probability of every text of three tokens, token by token as `generate` draws them."""
    found = {}
    for text in itertools.product(range(VOCABULARY), repeat=LENGTH):
        ids, probability = prompt[None], 1.0
        for token in text:
            scores = _scores(tuple(ids[0].tolist()), tuple(settings.items()))
            probability *= float(scores.softmax(-1)[token])
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        found[text] = probability
    return found


@cache
def _scores(ids: tuple[int, ...], settings: tuple[tuple[str, Any], ...]) -> Tensor:
    """`[V]` float64: what transformers' own loop draws the next token from."""
    given = torch.tensor([ids])
    run = target().generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=1,
        do_sample=True,
        output_scores=True,
        return_dict_in_generate=True,
        **dict(settings),
    )
    return run.scores[0][0].double()


BEST, DRAWN = "9-2-4", "3x2"
COLD = {"temperature": 0.6, "top_p": 0.9, "top_k": 0}
HOT = {"temperature": 1.4, "top_p": 0.9, "top_k": 0}
PENALTY = {"repetition_penalty": 1.3}
"""Reads the ids before a token: such a tree is accepted by the target's own tokens."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tree", "settings"),
    [
        (BEST, COLD | PENALTY),
        (BEST, HOT),
        (DRAWN, COLD),
        (DRAWN, COLD | PENALTY),
        (DRAWN, HOT | PENALTY),
    ],
    ids=["best-cold-penalty", "best-hot", "drawn-cold", "drawn-cold-penalty", "drawn-hot-penalty"],
)
def test_three_tokens_have_the_targets_distribution(tree: str, settings: dict[str, Any]) -> None:
    decoder = SparrowDecoder(target(), draft(), tree)
    rows = DRAWS // len(PROMPTS)
    counts: list[dict[tuple[int, ...], int]] = [{}, {}]
    torch.manual_seed(11)
    result = decoder.generate(
        input_ids=PROMPTS,
        attention_mask=MASK,
        max_new_tokens=LENGTH,
        do_sample=True,
        num_return_sequences=rows,
        **settings,
    )
    for number, text in enumerate(result.sequences[:, PROMPTS.shape[1] :].tolist()):
        count = counts[number // rows]
        count[tuple(text)] = count.get(tuple(text), 0) + 1
    accepted = sum(sum(row.histogram[2:]) for row in result.stats.rows)
    assert accepted > DRAWS // 100, "drafts are accepted now and then, or this shows nothing"
    for prompt, mask, count in zip(PROMPTS, MASK, counts, strict=True):
        wanted = exact(prompt[mask.bool()], settings)
        total = sum(count.values())
        assert total == rows
        assert all(wanted[text] > 0 for text in count)
        common = [text for text, probability in wanted.items() if probability * total >= 5]
        statistic = sum(
            (count.get(text, 0) - wanted[text] * total) ** 2 / (wanted[text] * total)
            for text in common
        )
        degrees = len(common)
        assert degrees > 20, "a distribution with hardly any outcomes shows little"
        assert statistic < degrees + 5 * (2 * degrees) ** 0.5
