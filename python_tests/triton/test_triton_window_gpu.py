"""The Triton kernels of anchored window attention on a GPU, with the tiles that ship."""

import pytest
import torch
from triton_window_cases import attend, check, scattered
from window_cases import drawn, text, with_gradients

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention.window_ops import ANCHORED_WINDOW, ANCHORED_WINDOW_BACKWARD

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
def test_on_a_gpu(dtype, head_dim):
    mask = torch.cat((scattered(777, 0.05), text(777, (40, 700))))
    for window in (0, 100, 777):
        check(*drawn(mask, head_dim=head_dim, dtype=dtype), mask, window, "cuda")


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_a_long_sequence(share):
    mask = scattered(4096, share)
    tensors = drawn(mask, heads=7, kv_heads=1, head_dim=128, dtype=torch.bfloat16)
    check(*tensors, mask, 256, "cuda")


def test_scratch_is_linear_and_nothing_waits():
    peaks = []
    for length in (4096, 8192):
        mask = scattered(length, 0.1).cuda()
        query, key, value, grad = (
            t.cuda() for t in drawn(mask, heads=8, head_dim=64, dtype=torch.bfloat16)
        )
        with env.backend("triton"):
            with_gradients(attend(mask, 64), query, key, value, grad)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            torch.cuda.set_sync_debug_mode("error")
            try:
                with_gradients(attend(mask, 64), query, key, value, grad)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] <= 2.2 * peaks[0] and peaks[1] < 8192 * 8192


def test_compiled_training_on_a_gpu():
    torch._dynamo.reset()
    mask = scattered(300, 0.1).cuda()
    tensors = [t.cuda() for t in drawn(mask, head_dim=64, dtype=torch.bfloat16)]
    compiled = torch.compile(attend(mask, 16), fullgraph=True)
    for left, right in zip(
        with_gradients(attend(mask, 16), *tensors),
        with_gradients(compiled, *tensors),
        strict=True,
    ):
        assert torch.equal(left, right)


def test_captured_in_a_graph():
    mask = scattered(300, 0.1).cuda()
    query, key, value, grad = (t.cuda() for t in drawn(mask, head_dim=64, dtype=torch.bfloat16))

    def step():
        out, lse = ANCHORED_WINDOW(query, key, value, mask, 16, 0.125)
        return out, *ANCHORED_WINDOW_BACKWARD(grad, query, key, value, out, lse, mask, 16, 0.125)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    mask.copy_(scattered(300, 0.6, seed=1))
    query.copy_(torch.randn_like(query))
    graph.replay()
    for left, right in zip(captured, step(), strict=True):
        assert torch.equal(left, right)
