"""The Triton tree attention on caches in pages and with a bias, case by case."""

from dataclasses import replace

import pytest
import torch
from attention_oracle import Case, tree_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import DEVICES
from paged_cases import LAYOUTS, Pages, sharing
from test_attention_bias import OF_EACH, check, drawn_bias, taken_away
from test_attention_tree import BUSHY, drawn_cases
from test_triton_tree import CASES
from triton_plans import WAYS, planned

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import tree_attention

FEW = {
    name: CASES[name]
    for name in (
        "ragged",
        "left padding",
        "a level that leaves gaps",
        "rows without words, nor prefix",
        "head dim 72",
        "anchored, text around a clip",
        "float16",
    )
}
LONG = Case([tree_bits(BUSHY)] * 2, [300, 270], capacity=340, starts=[0, 17])


def agree(case, pages, device, **more):
    for paged, whole in zip(pages.run(device, **more), case.run(device, **more), strict=True):
        assert torch.equal(paged, whole)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_the_bits_of_a_cache_of_one_piece(way, device):
    with planned(way):
        for number, case in enumerate(FEW.values()):
            page_size, layout = (1, 16, 64)[number % 3], LAYOUTS[number % 3]
            agree(case, Pages(case, page_size, layout, seed=number), device)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_the_table_s_own_tiles(device):
    with env.backend("triton"):
        for page_size in (16, 64, 256):
            shared = 256 // page_size
            case = sharing(LONG, 256)
            if device == "cuda":
                case = sharing(replace(LONG, dtype=torch.bfloat16, head_dim=64), 256)
            agree(case, Pages(case, page_size, LAYOUTS[0], shared), device)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@given(case=drawn_cases(most_slots=60), page_size=st.sampled_from([1, 3, 16, 64]))
@settings(max_examples=10, deadline=None)
def test_drawn_cases(device, case, page_size):
    with planned("splits"):
        agree(case, Pages(case, page_size, seed=case.seed), device)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_unchecked_pages_are_bounded(device):
    case = CASES["chain"]
    slab = torch.full((2, 12, 2, 16, 16), float("nan"), device=device)
    slab[:, 4:8] = torch.randn(2, 4, 2, 16, 16, device=device)
    query, words, lens = (case.arguments()[place].to(device) for place in (0, 3, 4))
    with planned("splits"), env.checks(False):
        for page in (-1, 4, 2**31 - 1, -(2**31)):
            table = torch.tensor([[0, page, 3, page]], dtype=torch.int32, device=device)
            for each in (table, table[:, :1]):
                out = tree_attention(query, *slab[:, 4:8], words, lens, block_table=each)
                assert bool(out.isfinite().all())
        out = tree_attention(query, *slab[:, :0], words, lens, block_table=table)
        assert out.abs().max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_weights_times_the_exponential_of_the_bias(way, device):
    with planned(way):
        for number, case in enumerate(FEW.values()):
            if case.dtype != torch.float32:
                continue
            bias = drawn_bias(case, OF_EACH[number % 4], (0.2, 1.0)[number % 5 == 0], seed=number)
            poisoned = taken_away(case, bias)
            results = poisoned.run(device, key_bias=bias.to(device))
            check(case, bias, results)
            pages = Pages(poisoned, 16)
            wide = torch.nn.functional.pad(bias, (0, pages.slots - case.capacity)).to(device)
            for paged, whole in zip(pages.run(device, key_bias=wide), results, strict=True):
                assert torch.equal(paged, whole)


@pytest.mark.parametrize("device", DEVICES)
def test_a_slot_taken_away_is_one_that_is_not_there(device):
    """The bits of a shorter prefix, or of one that begins a tile later."""
    case = Case([[0, 0, 0]], [90], capacity=96)
    none = torch.zeros((1, 1, 96), device=device)
    for begin, end in ((0, 50), (64, 90), (0, 0)):
        bias = none.clone()
        bias[..., :begin] = bias[..., end:] = -float("inf")
        part = replace(case, prefix_lens=[end], starts=[begin])
        with planned("splits"):
            ours = taken_away(case, bias.cpu()).run(device, key_bias=bias, num_splits=1)
            wanted = part.run(device, key_bias=none, num_splits=1)
        assert torch.equal(ours[0], wanted[0]) and torch.equal(ours[1], wanted[1])
