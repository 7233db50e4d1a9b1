"""What only a GPU can show of the native CUDA ops: graphs, streams, devices, no checks.

Results are compared with the same call on the CPU, bit for bit.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from tree_oracle import int32

from sparrow_kernels.ops import env, gather, tree

OPS = torch.ops.sparrow_native
pytestmark = pytest.mark.gpu
BATCH, SLOTS, MAX_PATH, CAPACITY = 5, 60, 6, 90


class Step:
    """One decode step's tensors: a tree, tokens, caches of a few layers, hidden states, lengths."""

    def __init__(self, seed: int, device: str = "cpu", batch: int = BATCH) -> None:
        source = random.Random(seed)
        parents = [[-1] + [source.randrange(n) for n in range(1, SLOTS)] for _ in range(batch)]
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device, torch.bfloat16)

        def tokens() -> Tensor:
            return torch.randint(0, 3, (batch, SLOTS), generator=generator).to(device)

        self.parent = int32(parents).to(device)
        self.tokens, self.target_tokens = tokens(), tokens()
        self.keys = [draw(batch, 2, CAPACITY, 128) for _ in range(3)]
        self.values = [draw(batch, 2, CAPACITY, 128) for _ in range(3)]
        self.states = [draw(batch, SLOTS, 256) for _ in range(2)]
        self.prefix_lens = int32([source.randrange(20) for _ in range(batch)]).to(device)
        self.key_rows, self.value_rows = draw(batch, 2, SLOTS, 128), draw(batch, 2, SLOTS, 128)
        self.query = draw(batch, 6, SLOTS, 128)
        self.cos, self.sin = draw(batch, SLOTS, 128), draw(batch, SLOTS, 128)

    def tensors(self) -> list[Tensor]:
        fields = list(vars(self).values())
        return [t for f in fields for t in (f if isinstance(f, list) else [f])]

    def load(self, other: Step) -> None:
        for own, new in zip(self.tensors(), other.tensors(), strict=True):
            own.copy_(new)

    def run(self) -> list[Tensor]:
        """Append, lay out, accept and commit; what comes out, and what was written in place."""
        rotated = OPS.rotate_append_(
            *(self.query, self.key_rows, self.value_rows, self.cos, self.sin),
            *(self.keys[0], self.values[0], self.prefix_lens),
        )
        OPS.append_cache_(
            self.key_rows, self.value_rows, self.keys[1], self.values[1], self.prefix_lens
        )
        layout = OPS.build_tree(self.parent, None)
        committed = OPS.commit_tree_(
            *(self.tokens, *layout[:5], self.target_tokens, self.keys, self.values),
            *(self.states, self.prefix_lens, MAX_PATH),
        )
        return [rotated, *layout, *committed, *self.keys, *self.values, self.prefix_lens]


def assert_as_on_a_cpu(got: list[Tensor], seed: int, batch: int = BATCH) -> None:
    wanted = Step(seed, batch=batch).run()
    for place, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert torch.equal(a.cpu(), b), place


def test_a_step_is_that_of_a_cpu() -> None:
    for seed in range(5):
        assert_as_on_a_cpu(Step(seed, "cuda").run(), seed)


def test_a_large_batch() -> None:
    assert_as_on_a_cpu(Step(1, "cuda", batch=700).run(), 1, batch=700)


def captured(step: Step) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    step.run()  # the configuration is called before it is captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step.run()
    return graph, out


def test_a_captured_step_follows_its_tensors() -> None:
    """New lengths, trees and rows in the same buffers, replayed; a step between replays."""
    step = Step(0, "cuda")
    graph, out = captured(step)
    for seed in (1, 2, 3):
        step.load(Step(seed))
        graph.replay()
        assert_as_on_a_cpu(out, seed)
        assert_as_on_a_cpu(Step(seed + 10, "cuda").run(), seed + 10)


def test_the_first_call_on_a_stream_may_be_captured() -> None:
    """The counter across blocks is then allocated while the stream is captured."""
    step = Step(4, "cuda")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        out = step.run()
    step.load(Step(5))
    graph.replay()
    torch.cuda.synchronize()
    assert_as_on_a_cpu(out, 5)


def test_two_graphs_and_a_stream_at_once() -> None:
    """Counters are shared by none of them."""
    steps = [Step(seed, "cuda") for seed in (6, 7)]
    pairs = [captured(step) for step in steps]
    streams = [torch.cuda.Stream() for _ in range(3)]
    for _ in range(20):
        for seed, step in zip((6, 7), steps, strict=True):
            step.load(Step(seed))
        third = Step(8, "cuda")
        torch.cuda.synchronize()
        for stream, (graph, _) in zip(streams[:2], pairs, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
        with torch.cuda.stream(streams[2]):
            out = third.run()
        torch.cuda.synchronize()
        assert_as_on_a_cpu(pairs[0][1], 6)
        assert_as_on_a_cpu(pairs[1][1], 7)
        assert_as_on_a_cpu(out, 8)


def test_a_step_captured_twice() -> None:
    """Each capture has counters of its own, also where the first one is gone by then."""
    step, other = Step(20, "cuda"), Step(21, "cuda")
    first, out_of_first = captured(step)
    second, out_of_second = captured(step)
    for seed, graph, out in ((22, first, out_of_first), (23, second, out_of_second)) * 3:
        step.load(Step(seed))
        graph.replay()
        assert_as_on_a_cpu(out, seed)
    first.reset()
    third, out_of_third = captured(other)
    for _ in range(3):
        step.load(Step(24))
        other.load(Step(25))
        torch.cuda.synchronize()
        streams = [torch.cuda.Stream() for _ in range(2)]
        for stream, graph in zip(streams, (second, third), strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
        torch.cuda.synchronize()
        assert_as_on_a_cpu(out_of_second, 24)
        assert_as_on_a_cpu(out_of_third, 25)


def test_capturing_again_and_again_takes_no_more_memory() -> None:
    """Sixty captures whose counters alone would take 14 MB."""
    batch = 60_000
    path = int32([[0]]).expand(batch, 1).contiguous().cuda()
    length, lens = int32([0] * batch).cuda(), int32([0] * batch).cuda()

    def commit() -> None:
        OPS.commit_path_(path, length, [], [], [], lens)

    commit()
    free = []
    for _ in range(80):
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            commit()
        graph.replay()
        torch.cuda.synchronize()
        graph.reset()
        torch.cuda.empty_cache()
        free.append(torch.cuda.mem_get_info()[0])
    assert lens.unique().tolist() == [81]
    # The first ones also load and set up; CUDA gives counters back a little later.
    assert free[19] - free[-1] <= 8 << 20


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_another_device_than_the_current_one() -> None:
    assert torch.cuda.current_device() == 0
    assert_as_on_a_cpu(Step(9, "cuda:1").run(), 9)
    assert torch.cuda.current_device() == 0


def test_tensors_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="num_nodes must be on the call's device"):
        OPS.build_tree(int32([[-1, 0]]).cuda(), int32([2]))


def wild_commit(device: str) -> list[Tensor]:
    keys = [torch.arange(40.0, device=device).view(1, 1, 10, 4)]
    values = [key.clone() for key in keys]
    states = [torch.ones(1, 3, 2, device=device)]
    lens = int32([7]).to(device)
    path = int32([[0, 2**31 - 1, -5, 2]]).to(device)
    hidden = OPS.commit_path_(path, int32([2**31 - 1]).to(device), keys, values, states, lens)
    return [*keys, *values, hidden, lens]


def wild_tree(device: str) -> list[Tensor]:
    parent = int32([[-1, 0, 7, -9], [3, 0, 0, 0]]).to(device)
    return list(OPS.build_tree(parent, int32([2**31 - 1, -4]).to(device)))


@pytest.mark.parametrize("call", [wild_commit, wild_tree])
def test_wild_values_are_answered_as_on_a_cpu(call: Callable[[str], list[Tensor]]) -> None:
    for a, b in zip(call("cuda"), call("cpu"), strict=True):
        assert torch.equal(a.cpu(), b)


def test_values_are_checked_where_asked_and_not_by_default() -> None:
    parent = int32([[0, 5]]).cuda()
    assert tree.build_tree(parent).status.tolist() == [1]
    with env.checks(True), pytest.raises(ValueError, match="build_tree"):
        tree.build_tree(parent)
    states, index = [torch.ones(1, 2, 4, device="cuda")], int32([[0, 9]]).cuda()
    assert gather.gather_hidden(states, index).tolist() == [[[1.0] * 4, [0.0] * 4]]
