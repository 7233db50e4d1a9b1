"""A decoder and what it returned go through copies and pickles, as between processes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from decoding_cases import random_pair

from sparrow_kernels.models import SparrowDecoder

IDS = torch.tensor([[5, 6, 7, *range(20, 50)]])
SETTINGS: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
WAYS = {"copied": copy.deepcopy, "pickled": lambda one: pickle.loads(pickle.dumps(one))}


@pytest.fixture
def used() -> SparrowDecoder:
    target, draft, _ = random_pair()
    return SparrowDecoder(target, draft)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_decoder(used: SparrowDecoder, way: Callable[[Any], Any]) -> None:
    expected = used.generate(IDS, **SETTINGS)
    other = way(used)
    assert torch.equal(other.generate(IDS, **SETTINGS).sequences, expected.sequences)
    assert torch.equal(used.generate(IDS, **SETTINGS).sequences, expected.sequences)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_result(used: SparrowDecoder, way: Callable[[Any], Any]) -> None:
    """Its cache keeps what it holds, but a call begins anew: the buffers are not a copy's."""
    result = used.generate(IDS, **SETTINGS)
    other = way(result)
    assert torch.equal(other.sequences, result.sequences) and other.stats == result.stats
    for ours, theirs in zip(result.cache.keys, other.cache.keys, strict=True):
        assert torch.equal(ours[:, :, : IDS.shape[1]], theirs[:, :, : IDS.shape[1]])
    again = used.generate(IDS, cache=other.cache, **SETTINGS)
    assert torch.equal(again.sequences, result.sequences)
    assert again.stats.rows[0].reused_slots == 0
    assert used.generate(IDS, cache=result.cache, **SETTINGS).stats.rows[0].reused_slots > 0
