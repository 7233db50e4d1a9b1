"""The Triton attention mass against its definition."""

from dataclasses import replace

import pytest
import torch
from interpreter import DEVICES
from paged_cases import Pages
from test_attention_mass import CASES, arguments, hold
from tree_cases import strided

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import attention_mass
from sparrow_kernels.ops.attention.triton import mass_launch


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_sums_of_softmax_weights(device):
    """Also in pages, which give the same bits, and by the rows' own log-sum-exp."""
    for name in ("ragged", "head dim 72", "float16"):
        case = CASES[name]
        query, key, lens = arguments(case.poisoned(), device)
        pages = Pages(case, 16)
        with env.backend("triton"):
            mass = attention_mass(query, key, lens)
            table = pages.table.to(device)
            paged = attention_mass(query, pages.key.to(device), lens, block_table=table)
            lse = torch.full(query.shape[:3], -float("inf"), device=device)
            nothing = attention_mass(query, key, lens, lse=lse)
        hold(case, mass.cpu())
        assert torch.equal(paged[..., : case.capacity], mass) and nothing.abs().max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_rows_that_lie_apart(device):
    """Queries and lse behind strides, and rows of which an lse says that they see nothing."""
    case = CASES["ragged"]
    query, key, lens = arguments(case.poisoned(), device)
    committed = torch.arange(case.capacity) < torch.tensor(case.prefix_lens)[:, None]
    keys = case.key.repeat_interleave(case.heads // case.kv_heads, 1)
    scores = (case.query @ keys.mT * case.head_dim**-0.5).float()
    lse = scores.masked_fill(~committed[:, None, None], -torch.inf).logsumexp(-1).to(device)
    even = torch.arange(lse.shape[2], device=device) % 2 == 0
    with env.backend("triton"):
        mass = attention_mass(query, key, lens, lse=lse)
        assert torch.equal(attention_mass(strided(query), key, lens, lse=strided(lse)), mass)
        some = attention_mass(query, key, lens, lse=lse.masked_fill(even, -torch.inf))
        others = attention_mass(query, key, lens, lse=lse.masked_fill(~even, -torch.inf))
    hold(case, mass.cpu())
    assert 0 < some.sum() < mass.sum()
    torch.testing.assert_close(some + others, mass)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_long_requests_in_several_splits(device):
    """Four under the interpreter, of which some end in the middle of a tile."""
    case = CASES["more slots than a span"]
    query, key, lens = arguments(case.poisoned(), device)
    with env.backend("triton"):
        hold(case, attention_mass(query, key, lens).cpu())


@pytest.mark.parametrize("device", DEVICES)
def test_log_sum_exps_by_tree_attention(device, monkeypatch):
    """As in float32 on a GPU."""
    case = CASES["ragged"]
    query, key, lens = arguments(case.poisoned(), device)
    pages = Pages(case, 16)
    of_pages, table = pages.key.to(device), pages.table.to(device)
    monkeypatch.setattr(mass_launch, "lse_tiles", lambda *_: None)
    with env.backend("triton"):
        mass = attention_mass(query, key, lens)
        paged = attention_mass(query, of_pages, lens, block_table=table)
    hold(case, mass.cpu())
    assert torch.equal(paged[..., : case.capacity], mass)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_a_scale_that_is_not_positive(device, scale):
    case = CASES["ragged"]
    query, key, lens = arguments(case, device)
    with env.backend("triton"):
        mass = attention_mass(query, key, lens, scale=scale)
    with env.backend("reference"):
        torch.testing.assert_close(mass, attention_mass(query, key, lens, scale=scale))


@pytest.mark.gpu
def test_memory_does_not_grow_with_rows_times_slots():
    peaks = []
    for rows, slots in ((512, 8192), (2048, 32768)):
        query = torch.randn(1, 8, rows, 64, device="cuda", dtype=torch.bfloat16)
        key = torch.randn(1, 2, slots, 64, device="cuda", dtype=torch.bfloat16)
        lens = torch.tensor([slots], dtype=torch.int32, device="cuda")
        attention_mass(query, key, lens)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        attention_mass(query, key, lens)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 5 * peaks[0]


@pytest.mark.gpu
def test_bfloat16():
    for case in CASES.values():
        case = replace(case, dtype=torch.bfloat16)
        query, key, lens = arguments(case.poisoned(), "cuda")
        hold(case, attention_mass(query, key, lens).cpu())
