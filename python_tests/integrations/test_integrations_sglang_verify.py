"""sgl-kernel's greedy verification over our ops, the buffers it writes, and its packed bits."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from sglang_cases import UNTOUCHED, expect, greedy, links, runs_without_a_sync, verification
from tree_cases import random_tree

from sparrow_kernels.integrations.sglang import segment_packbits, verify_tree_greedy
from sparrow_kernels.integrations.sglang.buffers import write
from sparrow_kernels.testing import GuardRows

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def test_a_write_outside_of_its_buffer_is_left_out() -> None:
    guards = GuardRows()
    buffer = guards.empty(6, dtype=torch.int32).fill_(UNTOUCHED)
    index = torch.tensor([9, 2, -1, 2**40, 0, 5])
    values = torch.tensor([100, 101, 102, 103, 104, 105])
    where = torch.tensor([True, True, True, True, False, True])
    write(buffer, index, values, where)
    assert buffer.tolist() == [UNTOUCHED, UNTOUCHED, 101, UNTOUCHED, UNTOUCHED, 105]
    write(buffer, index, values, torch.zeros_like(where))
    assert buffer.tolist() == [UNTOUCHED, UNTOUCHED, 101, UNTOUCHED, UNTOUCHED, 105]
    guards.check()


@DEVICES
@pytest.mark.parametrize("nodes", [1, 2, 7, 30, 70])
@pytest.mark.parametrize("most_nodes", [1, 2, 5])
def test_greedy_verification(nodes: int, most_nodes: int, device: str) -> None:
    draw = random.Random(nodes * 10 + most_nodes)
    trees = [random_tree(nodes, seed) for seed in range(9)]
    trees += [list(range(-1, nodes - 1))]
    tokens = [[draw.randrange(4) for _ in range(nodes)] for _ in trees]
    target = [[draw.randrange(4) for _ in range(nodes)] for _ in trees]
    call = verification(trees, most_nodes, device)
    # Global indices are the caller's: here those of the requests in reverse.
    call.retrieve = (call.retrieve[0].flip(0).contiguous(), *call.retrieve[1:])
    verify_tree_greedy(
        call.predicts,
        call.accept_index,
        call.accept_token_num,
        torch.tensor(tokens, device=device),
        *call.retrieve,
        torch.tensor(target, device=device),
    )
    walks = [
        greedy(links(tree), *each, most_nodes)
        for tree, *each in zip(trees, tokens, target, strict=True)
    ]
    expect(call, [walk[0] for walk in walks], [walk[1] for walk in walks])
    assert nodes == 1 or most_nodes == 1 or max(len(walk[0]) for walk in walks) > 1


def test_indices_outside_of_predicts_are_not_written() -> None:
    call = verification([[-1, 0]], 2, "cpu")
    guards = GuardRows()
    predicts = guards.empty(2, dtype=torch.int32)
    before = predicts.clone()
    index = torch.tensor([[2**33, -5]])
    tokens = torch.tensor([[0, 4]])
    arguments = (call.accept_index, call.accept_token_num, tokens, index, *call.retrieve[1:])
    verify_tree_greedy(predicts, *arguments, torch.tensor([[4, 1]]))
    guards.check()
    assert torch.equal(predicts, before)
    assert call.accept_token_num.tolist() == [1]


def test_an_empty_batch() -> None:
    call = verification([[-1]], 2, "cpu")
    results = (call.predicts, call.accept_index[:0], call.accept_token_num[:0])
    verify_tree_greedy(*results, *torch.zeros(5, 0, 3, dtype=torch.int64))
    assert bool((call.predicts == UNTOUCHED).all())


def test_a_call_without_room_for_the_root() -> None:
    call = verification([[-1]], 1, "cpu")
    tokens, none = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64)
    results = (call.predicts, call.accept_index[:, :0], call.accept_token_num)
    with pytest.raises(ValueError, match=r"greedy: accept_index must be \[B, S\] with S >= 1"):
        verify_tree_greedy(*results, tokens, *call.retrieve, tokens)
    results = (call.predicts, call.accept_index, call.accept_token_num)
    with pytest.raises(ValueError, match=r"greedy: draft_tokens must be \[B, N\] with N >= 1"):
        verify_tree_greedy(*results, *[none] * 5)


SEGMENTS = {
    "whole bytes": [8, 16, 24],
    "ragged": [1, 7, 9, 15, 17, 3],
    "empty ones": [0, 5, 0, 0, 12, 0],
    "one": [100],
}


@DEVICES
@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("gap", [0, 2])
def test_segment_packbits(name: str, gap: int, device: str) -> None:
    sizes = SEGMENTS[name]
    x = torch.rand(sum(sizes), generator=torch.Generator().manual_seed(1)) < 0.5
    expected, begins, at = [], [0], 0
    for size in sizes:
        packed = numpy.packbits(x[at : at + size].numpy(), bitorder="little").tolist()
        expected += packed + [0xA5] * gap
        begins.append(len(expected))
        at += size
    expected += [0xA5] * 3
    guards = GuardRows()
    y = guards.empty(len(expected), dtype=torch.uint8, device=device).fill_(0xA5)
    input_indptr = torch.tensor([0, *sizes], dtype=torch.int32, device=device).cumsum(0)
    output_indptr = torch.tensor(begins, dtype=torch.int32, device=device)
    segment_packbits(x.to(device), input_indptr.int(), output_indptr, y, len(sizes))
    assert y.tolist() == expected
    guards.check()


def test_segments_out_of_range_stay_inside() -> None:
    x, guards = torch.ones(10, dtype=torch.bool), GuardRows()
    y = guards.empty(4, dtype=torch.uint8).fill_(0)
    segment_packbits(x, torch.tensor([-3, 40, 2**40]), torch.tensor([-1, 2, 900]), y, 2)
    guards.check()
    with pytest.raises(ValueError, match="output_indptr must be"):
        segment_packbits(x, torch.tensor([0, 10]), torch.tensor([0]), y, 1)


@pytest.mark.gpu
def test_verifying_does_not_wait_for_the_gpu() -> None:
    call = verification([random_tree(16, seed) for seed in range(4)], 4, "cuda")
    tokens = torch.randint(0, 3, (4, 16), device="cuda")
    results = (call.predicts, call.accept_index, call.accept_token_num)
    bits = torch.ones(20, dtype=torch.bool, device="cuda")
    indptr = torch.tensor([0, 20], device="cuda")
    packed = torch.zeros(20, dtype=torch.uint8, device="cuda")

    def run() -> None:
        verify_tree_greedy(*results, tokens, *call.retrieve, tokens)
        segment_packbits(bits, indptr, indptr, packed, 1)

    runs_without_a_sync(run)
