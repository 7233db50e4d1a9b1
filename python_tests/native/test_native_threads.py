"""Host threads that launch the same kernels at once, each at a size and on a stream of its own."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor
from tree_cases import random_tree

import sparrow_kernels as sk

pytestmark = pytest.mark.gpu
VOCABULARY, NODES, MAX_PATH = 152_064, 3, 3
BATCHES = (1, 64)  # clusters of 16 and of 8 blocks, with 85 and 160 KB of shared memory each


def arguments(batch: int) -> tuple[Tensor, sk.TreeLayout, Tensor, Tensor, Tensor, Tensor, int]:
    generator = torch.Generator("cuda").manual_seed(batch)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, device="cuda", generator=generator)

    parents = [random_tree(NODES, seed) for seed in range(batch)]
    layout = sk.build_tree(torch.tensor(parents, dtype=torch.int32, device="cuda"))
    target, draft = (draw(batch, NODES, VOCABULARY) for _ in range(2))
    tokens = draft.argmax(-1).roll(1, 1)
    return tokens, layout, target, draft, draw(batch, NODES), draw(batch), MAX_PATH


def test_residual_acceptance_of_two_sizes_at_once() -> None:
    """What a kernel is allowed of shared memory is the kernel's: no launch may lower it."""
    calls = {batch: arguments(batch) for batch in BATCHES}
    wanted = {batch: sk.accept_tree_residual(*call) for batch, call in calls.items()}
    torch.cuda.synchronize()
    failures: list[str] = []
    start = threading.Barrier(len(BATCHES))

    def repeat(batch: int) -> None:
        stream = torch.cuda.Stream()
        start.wait()
        try:
            with torch.cuda.stream(stream):
                for _ in range(300):
                    got = sk.accept_tree_residual(*calls[batch])
                stream.synchronize()
            for name, one, other in zip(got._fields, got, wanted[batch], strict=True):
                if not torch.equal(one, other):
                    failures.append(f"batch {batch}: another {name}")
        except Exception as error:  # whatever a thread meets is this test's to tell
            failures.append(f"batch {batch}: {error}")

    threads = [threading.Thread(target=repeat, args=(batch,)) for batch in BATCHES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("batch", BATCHES)
def test_repeated_calls_give_the_same_bits(batch: int) -> None:
    """Masses come from other blocks in any order, and are summed in one."""
    call = arguments(batch)
    wanted = sk.accept_tree_residual(*call)
    for _ in range(200):
        for one, other in zip(sk.accept_tree_residual(*call), wanted, strict=True):
            assert torch.equal(one, other)
