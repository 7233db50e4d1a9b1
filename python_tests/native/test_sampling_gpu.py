"""The sampling kernels and top-k on a GPU's streams and in its graphs: ready to run where one is.

What a replay or another stream gives must be what a plain call on the same inputs gives.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from tree_cases import random_tree

import sparrow_kernels as sk

pytestmark = pytest.mark.gpu
V, SIZE, BATCH = 32_003, 9, 2
Results = tuple[Tensor, ...]


def draw_inputs(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator("cuda").manual_seed(seed)
    target = torch.randn(BATCH, SIZE, V, device="cuda", generator=generator) * 3
    draft = target + torch.randn(BATCH, SIZE, V, device="cuda", generator=generator)
    coins = torch.rand(BATCH, SIZE + 1, device="cuda", generator=generator)
    return {
        "target": target,
        "draft": draft,
        "tokens": draft.argmax(-1).roll(1, 1),
        "coins": coins[:, :SIZE].contiguous(),
        "bonus": coins[:, SIZE].contiguous(),
    }


def layout() -> sk.TreeLayout:
    parents = [random_tree(SIZE, seed) for seed in range(BATCH)]
    return sk.build_tree(torch.tensor(parents, dtype=torch.int32, device="cuda"))


TREES: sk.TreeLayout


@pytest.fixture(scope="module", autouse=True)
def trees() -> None:
    global TREES
    TREES = layout()


OPS: dict[str, Callable[[dict[str, Tensor]], Results]] = {
    "topk_logprobs": lambda a: sk.topk_logprobs(a["target"].flatten(0, 1), 8),
    "sample_tokens": lambda a: (sk.sample_tokens(a["target"].abs(), a["coins"]),),
    "sample_logits": lambda a: (sk.sample_logits(a["target"], a["coins"], 0.7),),
    "accept_tree_residual": lambda a: sk.accept_tree_residual(
        a["tokens"], TREES, a["target"].abs(), a["draft"].abs(), a["coins"], a["bonus"], 5
    ),
    "accept_tree_residual_logits": lambda a: sk.accept_tree_residual_logits(
        a["tokens"], TREES, a["target"], a["draft"], a["coins"], a["bonus"], 5, 0.8, 1.1
    ),
}
each_op = pytest.mark.parametrize("op", OPS)


def assert_same(got: Results, expected: Results) -> None:
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


@each_op
def test_a_graph_replays_on_changed_inputs(op: str) -> None:
    inputs = draw_inputs(0)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        OPS[op](inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = OPS[op](inputs)
    for seed in (1, 2, 1):
        changed = draw_inputs(seed)
        for name, tensor in changed.items():
            inputs[name].copy_(tensor)
        for result in results:
            result.fill_(-7)
        graph.replay()
        assert_same(results, OPS[op](changed))


@each_op
def test_two_streams_do_not_meet(op: str) -> None:
    inputs = [draw_inputs(seed) for seed in (3, 4)]
    expected = [OPS[op](each) for each in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    for _ in range(20):
        results = []
        for stream, each in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                results.append(OPS[op](each))
        torch.cuda.synchronize()
        for got, wanted in zip(results, expected, strict=True):
            assert_same(got, wanted)


@each_op
def test_the_cpu_agrees(op: str) -> None:
    """Ids bit for bit here: no coin of this seed lies beside a step."""
    inputs = draw_inputs(5)
    on_cpu = {name: tensor.cpu() for name, tensor in inputs.items()}
    got = OPS[op](inputs)
    global TREES
    kept, TREES = TREES, sk.TreeLayout(*(field.cpu() for field in TREES))
    try:
        expected = OPS[op](on_cpu)
    finally:
        TREES = kept
    for one, other in zip(got, expected, strict=True):
        if one.dtype.is_floating_point:
            torch.testing.assert_close(one.cpu(), other, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(one.cpu(), other)
