"""What attention allocates over a long prefix: never anything of prefix times nodes or heads."""

from itertools import accumulate

import pytest
import torch
from attention_oracle import CPU_BACKENDS, tree_bits, words_of

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import anchor_index, tree_attention
from sparrow_kernels.testing import random_parents

PREFIX, NODES, HEADS, KV_HEADS, HEAD_DIM = 128 * 1024, 60, 8, 2, 64
# A mask of one byte a prefix slot and node: the smallest thing that must not exist.
MASK_BYTES = PREFIX * NODES


def inputs(prefix, device="cpu", dtype=torch.float32):
    parents = random_parents(NODES, torch.Generator().manual_seed(0)).tolist()
    words = torch.tensor([words_of(tree_bits(parents), 1)], device=device)
    make = {"dtype": dtype, "device": device}
    query = torch.randn((1, HEADS, NODES, HEAD_DIM), **make)
    key, value = (torch.randn((1, KV_HEADS, prefix + 64, HEAD_DIM), **make) for _ in range(2))
    return query, key, value, words, torch.tensor([prefix], dtype=torch.int32, device=device)


def peak(run):
    """The most bytes that PyTorch's allocator held at once while `run` ran, kernels included."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate((nbytes for _, nbytes in changes), initial=0))


@pytest.mark.slow
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_no_backend_on_a_cpu_allocates_prefix_times_nodes(backend):
    given, few = inputs(PREFIX), inputs(8192)
    assert peak(lambda: torch.ones(NODES, PREFIX, dtype=torch.bool)) >= MASK_BYTES
    with env.backend(backend):
        short = peak(lambda: tree_attention(*few))
        long = peak(lambda: tree_attention(*given))
    assert long < MASK_BYTES and long < 1.1 * short, (short, long)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_anchors_and_a_window_allocate_what_they_see(backend):
    query, key, value, words, lens = inputs(PREFIX)
    anchor_mask = torch.zeros((1, PREFIX + 64), dtype=torch.bool)
    anchor_mask[:, ::512] = True
    anchored = {
        "anchors": anchor_index(anchor_mask, 300),
        "window": 64,
        "depth": torch.zeros((1, NODES), dtype=torch.int32),
    }
    with env.backend(backend):
        most = peak(lambda: tree_attention(query, key, value, words, lens, **anchored))
    assert most < MASK_BYTES


def test_the_scratch_of_triton_does_not_grow_with_the_prefix(monkeypatch):
    """Splits are bounded by one pass of the merge; each holds a result and a log-sum-exp."""
    pytest.importorskip("triton")
    from sparrow_kernels.ops.attention.triton import tree_launch

    facts = tree_launch.Device(90, 132, True)
    monkeypatch.setattr(tree_launch, "device_facts", lambda _: facts)
    for rows, batch in ((NODES, 1), (1, 1), (NODES, 16)):
        splits = []
        for slots in (PREFIX, 8 * PREFIX):
            shape = tree_launch.Shape(
                torch.device("cpu"),
                torch.bfloat16,
                batch,
                KV_HEADS,
                rows * HEADS // KV_HEADS,
                HEAD_DIM,
                slots,
                False,
                None,
            )
            splits.append(tree_launch.plan.__wrapped__(shape).num_splits)
        assert max(splits) <= 32
        assert splits[1] <= 2 * splits[0] or batch > 1  # long ones are split more in any company
        assert splits[0] * rows * HEADS * (2 * HEAD_DIM + 4) < max(rows, 8) * PREFIX


@pytest.mark.gpu
def test_triton_allocates_nothing_of_the_prefix():
    peaks = []
    for prefix in (PREFIX, 2 * PREFIX):
        given = inputs(prefix, "cuda", torch.bfloat16)
        with env.backend("triton"):
            tree_attention(*given)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            tree_attention(*given)
            peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] == peaks[1] < MASK_BYTES
