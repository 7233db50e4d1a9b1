"""The Triton tree attention on float8 caches, case by case."""

from dataclasses import replace

import pytest
import torch
from attention_oracle import Case, tree_bits
from float8_cases import FLOAT8, OF_EACH, Stored
from interpreter import DEVICES
from paged_cases import LAYOUTS
from test_attention_bias import drawn_bias, weighed
from test_attention_float8 import in_pages, same
from test_attention_tree import BUSHY
from test_triton_pages import FEW
from triton_plans import WAYS, planned

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import tree_attention
from sparrow_kernels.ops.attention.triton import availability
from sparrow_kernels.ops.attention.triton.configurations import UNFENCED, choose
from sparrow_kernels.testing import assert_close


@pytest.fixture(autouse=True)
def _takes_float8():
    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("float8 caches are for GPUs of 9.x")


def of_16_bits(case, device):
    """A GPU takes no float32 rows beside float8."""
    return case if device != "cuda" else replace(case, dtype=torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_every_case_and_the_same_bits_in_pages(way, device):
    with planned(way):
        names = list(FEW) if device == "cuda" else list(FEW)[::3]
        for number, case in enumerate(of_16_bits(FEW[name], device) for name in names):
            kept = Stored(case, OF_EACH[number % 4]).poisoned()
            results = kept.run(device)
            kept.check(results)
            page_size, layout = (1, 16, 64)[number % 3], LAYOUTS[number % 3]
            assert same(in_pages(kept, page_size, layout, device=device), results), number


@pytest.mark.parametrize("device", DEVICES)
def test_one_to_sixteen_rows_with_the_table_s_own_tiles(device):
    dtypes = (torch.float16, torch.bfloat16 if device == "cuda" else torch.float32)
    for dtype in dtypes:
        for rows in (1, 3, 16):
            chain = [tree_bits(list(range(-1, rows - 1)))] * 2
            case = Case(chain, [70, 9], capacity=96, head_dim=32, dtype=dtype)
            kept = Stored(case).poisoned()
            with env.backend("triton"):
                kept.check(kept.run(device))


@pytest.mark.parametrize("device", DEVICES)
def test_every_byte_means_what_it_does_to_torch(device):
    codes = torch.arange(256, dtype=torch.uint8, device=device).view(FLOAT8)
    words = torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
    one = torch.ones(1, dtype=torch.int32, device=device)
    scale = torch.full((1, 1), 0.37, device=device)
    for dtype in (torch.float16, torch.bfloat16 if device == "cuda" else torch.float32):
        query = torch.zeros(1, 1, 1, 256, device=device, dtype=dtype)
        with env.backend("triton"):
            out = tree_attention(
                query, query.to(FLOAT8), codes.view(1, 1, 1, 256), words, one, value_scale=scale
            )
        wanted, out = (codes.float() * 0.37).to(dtype), out.flatten()
        known = torch.ones(256, dtype=torch.bool) if device == "cuda" else codes.float().isfinite()
        # Triton's interpreter takes the two NaN for 480.
        assert torch.equal(out[known].nan_to_num(7.0), wanted[known].nan_to_num(7.0))


@pytest.mark.parametrize("device", DEVICES)
def test_with_a_bias_and_num_splits(device):
    case = of_16_bits(Case([tree_bits(BUSHY)] * 2, [90, 61], capacity=128, starts=[0, 17]), device)
    kept = Stored(case)
    bias = drawn_bias(case, (True, True))
    with planned("splits"):
        results = kept.run(device, key_bias=bias.to(device), num_splits=3)
    for name, result, wanted in zip(
        ("out", "lse"), results, weighed(kept.meant(), bias), strict=True
    ):
        assert_close(result, wanted, name=name, summands=4.0)


def test_other_gpus_and_rows_are_refused_by_name(monkeypatch):
    gpu = torch.device("cuda", 0)
    for capability in ((8, 0), (8, 9), (9, 0), (10, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        reason = availability.refuses_float8(gpu, torch.bfloat16)
        if capability == (9, 0):
            assert reason is None
            reason = availability.refuses_float8(gpu, torch.float32)
            assert "rows of 16 bits" in reason and "times their scales" in reason
        else:
            assert f"this is {capability[0]}.{capability[1]}" in reason and "scales" in reason
    assert availability.refuses_float8(torch.device("cpu"), torch.float32) is None


def test_without_fences_no_tile_of_two_warps():
    for head_dim in (64, 128, 256):
        for rows in (7, 56, 210):
            chosen = choose(UNFENCED, torch.bfloat16, head_dim, False, rows, False, float8=True)
            assert (chosen.rows, chosen.num_warps) == (16, 4)
