"""The gathering and commit ops as PyTorch operators."""

from __future__ import annotations

import pytest
import torch
from dispatch import compiles_once, opcheck
from torch import Tensor
from tree_cases import each_backend, random_tree

from sparrow_kernels import (
    Acceptance,
    build_tree,
    commit_path_,
    commit_tree_,
    compact_cache_,
    gather_hidden,
)
from sparrow_kernels.ops.gather.ops import (
    COMMIT_PATH,
    COMMIT_TREE,
    COMPACT_CACHE,
    GATHER_HIDDEN,
    GATHER_HIDDEN_OUT,
)

PATH = torch.tensor([[0, 2, 3], [0, 1, -1]], dtype=torch.int32)
LENGTH = torch.tensor([2, 1], dtype=torch.int32)
SIZE = 6
LAYOUT = build_tree(torch.tensor([random_tree(SIZE, 1)] * 2, dtype=torch.int32))
TOKENS = torch.zeros(2, SIZE, dtype=torch.int64)


def states() -> list[Tensor]:
    return [torch.arange(48.0).reshape(2, SIZE, 4) + layer for layer in range(2)]


def caches(capacity: int = 12) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Keys and values as views of one slab, and prefix lengths."""
    slab = torch.arange(2.0 * 2 * 2 * 3 * capacity * 4).reshape(2, 2, 2, 3, capacity, 4)
    lens = torch.tensor([4, 1], dtype=torch.int32)
    return [slab[0, 0], slab[1, 0]], [slab[0, 1], slab[1, 1]], lens


def apart(capacity: int = 12) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The same as tensors of their own: opcheck compares inputs for aliases."""
    keys, values, lens = caches(capacity)
    return [key.clone() for key in keys], [value.clone() for value in values], lens


@pytest.mark.slow
@each_backend(GATHER_HIDDEN)
def test_opcheck_gather_hidden(backend: str) -> None:
    opcheck(GATHER_HIDDEN, backend, states(), PATH)


@pytest.mark.slow
@each_backend(GATHER_HIDDEN_OUT)
def test_opcheck_gather_hidden_out(backend: str) -> None:
    opcheck(GATHER_HIDDEN_OUT, backend, states(), PATH, torch.zeros(2, 3, 8))


@pytest.mark.slow
@each_backend(COMPACT_CACHE)
def test_opcheck_compact_cache(backend: str) -> None:
    keys, values, lens = apart()
    opcheck(COMPACT_CACHE, backend, keys, values, PATH, LENGTH, lens)


@pytest.mark.slow
@each_backend(COMMIT_PATH)
def test_opcheck_commit_path(backend: str) -> None:
    keys, values, lens = apart()
    opcheck(COMMIT_PATH, backend, PATH, LENGTH, keys, values, states(), lens)


@pytest.mark.slow
@each_backend(COMMIT_TREE)
def test_opcheck_commit_tree(backend: str) -> None:
    keys, values, lens = apart()
    layout, rest = LAYOUT[:5], (keys, values, states(), lens, 3)
    opcheck(COMMIT_TREE, backend, TOKENS, *layout, TOKENS, *rest)


def test_gather_hidden_compiles_once() -> None:
    index = torch.tensor([[0, 2, 3, -1, 5], [0, 1, -1, 5, 5]], dtype=torch.int32)
    compiles_once(gather_hidden, [lambda n=n: (states(), index[:, :n].clone()) for n in (3, 5, 2)])


def test_gather_hidden_out_compiles_once() -> None:
    def into(layers: list[Tensor], index: Tensor, out: Tensor) -> Tensor:
        return gather_hidden(layers, index, out=out)

    calls = [lambda n=n: (states(), PATH[:, :n].clone(), torch.zeros(2, n, 8)) for n in (3, 2)]
    compiles_once(into, calls)


def test_compact_cache_compiles_once() -> None:
    compiles_once(in_place, [lambda n=n, make=m: make(n) for n in (12, 20) for m in (apart, apart)])


def in_place(keys: list[Tensor], values: list[Tensor], lens: Tensor) -> None:
    compact_cache_(keys, values, PATH, LENGTH, lens)


def test_compact_cache_compiles_for_a_slab_of_fixed_sizes() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(in_place, fullgraph=True, backend="aot_eager", dynamic=False)
    for capacity in (12, 20):
        expected, got = caches(capacity), caches(capacity)
        in_place(*expected)
        compiled(*got)
        for one, other in zip((*got[0], *got[1]), (*expected[0], *expected[1]), strict=True):
            assert torch.equal(one, other)


def test_a_slab_whose_sizes_change_is_not_compiled() -> None:
    """Inductor would write one view's bytes to the other, of a list and of two arguments."""
    keys, values, lens = caches()
    alone = [key.clone() for key in keys]
    for given in ((keys, values, lens), (keys, alone, lens)):
        torch._dynamo.reset()
        compiled = torch.compile(in_place, fullgraph=True, backend="eager", dynamic=True)
        before = [each.clone() for each in (*keys, *values)]
        with pytest.raises(Exception, match=r"compact_cache_: .* must be in a storage of its own"):
            compiled(*given)
        assert all(map(torch.equal, before, (*keys, *values)))


def test_commit_path_compiles_once() -> None:
    accepted = Acceptance(PATH, LENGTH, PATH.long())

    def commit(
        keys: list[Tensor], values: list[Tensor], lens: Tensor, layers: list[Tensor]
    ) -> Tensor:
        return commit_path_(accepted, keys, values, layers, lens)

    compiles_once(commit, [lambda n=n: (*apart(n), states()) for n in (12, 20)])


def test_commit_tree_compiles_once() -> None:
    def commit(
        keys: list[Tensor], values: list[Tensor], lens: Tensor, layers: list[Tensor], max_path: int
    ) -> tuple[Acceptance, Tensor]:
        return commit_tree_(TOKENS, LAYOUT, TOKENS, keys, values, layers, lens, max_path)

    compiles_once(commit, [lambda s=s: (*apart(), states(), s) for s in (2, 3, 6)])
