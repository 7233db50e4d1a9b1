"""The Triton attention mass against its definition."""

from dataclasses import replace

import pytest
import torch
from interpreter import DEVICES
from paged_cases import Pages
from test_attention_mass import CASES, arguments, hold

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import attention_mass


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
