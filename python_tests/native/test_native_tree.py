"""The native tree ops, called directly, against trees laid out by following parents one by one.

The same tests run over every native library (emulation.py).
"""

from __future__ import annotations

import random

import pytest
import torch
from emulation import Library
from hypothesis import given
from hypothesis import strategies as st
from tree_oracle import assert_laid_out, int32

from sparrow_kernels.ops import native


def test_the_native_library_is_built() -> None:
    assert native.unavailable() is None


@pytest.mark.parametrize("slots", [1, 63, 64, 65, 127, 128, 129, 1024, 1100, 2457])
@pytest.mark.parametrize("shape", ["chain", "star", "binary"])
def test_build_tree_at_word_borders(library: Library, slots: int, shape: str) -> None:
    above = {"chain": lambda i: i - 1, "star": lambda i: 0, "binary": lambda i: (i - 1) // 2}
    parent = [-1] + [above[shape](i) for i in range(1, slots)]
    assert_laid_out(library, [parent], [slots])


def test_build_tree_reads_strided_rows_and_no_padding(library: Library) -> None:
    wide = torch.full((3, 8), torch.iinfo(torch.int32).min, dtype=torch.int32)
    wide[:, :4] = int32([-1, 0, 0, 2])
    wide[1, 2:] = 77  # from its num_nodes on, whatever stands there
    fields = library.ops.build_tree(wide[:, :4], int32([4, 2, 0]))
    assert fields[0].tolist() == [[-1, 0, 0, 2], [-1, 0, -1, -1], [-1] * 4]
    assert fields[5].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("parent", "status"),
    [
        ([0, 0, 1], 1),
        ([-1, 1, 0], 2),
        ([-1, 0, -1], 3),
        ([-1, 0, 2_000_000_000], 3),
        ([-1, -(2**31), 0], 2),
    ],
)
def test_a_malformed_tree_counts_as_its_root_alone(
    library: Library, parent: list[int], status: int
) -> None:
    fields = library.ops.build_tree(int32([parent]), None)
    assert fields[0].tolist() == [[-1, -1, -1]]
    assert fields[1].tolist() == [[0, -1, -1]]
    assert fields[2].tolist() == [[[1], [0], [0]]]
    assert fields[3].tolist() == fields[4].tolist() == [[-1, -1, -1]]
    assert fields[5].tolist() == [status]


def test_num_nodes_out_of_range_is_clamped(library: Library) -> None:
    fields = library.ops.build_tree(int32([[-1, 0]] * 2), int32([-5, 2**31 - 1]))
    assert fields[1].tolist() == [[-1, -1], [0, 1]]


def test_a_large_batch_goes_through_the_threads(library: Library) -> None:
    parents = [[-1] + [(i - 1) // (2 + b % 3) for i in range(1, 256)] for b in range(64)]
    counts = [255 - b for b in range(64)]
    assert_laid_out(library, parents, counts)


@given(st.integers(0, 2**32), st.integers(1, 40), st.booleans())
def test_select_tree(library: Library, seed: int, pool: int, has_ties: bool) -> None:
    source = random.Random(seed)
    parent = [source.randrange(-1, i) for i in range(pool)]
    scores = [-float(source.randrange(4)) if has_ties else -source.random() for _ in range(pool)]
    num_nodes = source.randint(1, pool + 1)
    selected, tree_parent = library.ops.select_tree(
        torch.tensor([scores]), int32([parent]), num_nodes
    )

    def rank(node: int) -> float:
        above = min((rank(parent[node]),) if parent[node] >= 0 else (0.0,))
        return min(above, torch.tensor(scores[node]).item())

    best = sorted(range(pool), key=lambda node: (-rank(node), node))[: num_nodes - 1]
    assert selected.tolist() == [sorted(best)]
    number = {-1: 0} | {node: k + 1 for k, node in enumerate(sorted(best))}
    assert tree_parent.tolist() == [[-1] + [number[parent[node]] for node in sorted(best)]]


@pytest.mark.parametrize("pool", [4086, 4096])  # a GPU's block has just no more shared memory
def test_select_tree_from_a_large_pool(library: Library, pool: int) -> None:
    scores = torch.arange(pool, dtype=torch.float32).neg().unsqueeze(0)
    selected, tree_parent = library.ops.select_tree(scores, int32([[-1] * pool]), 60)
    assert selected.tolist() == [list(range(59))]
    assert tree_parent.tolist() == [[-1] + [0] * 59]


def test_select_tree_takes_any_value(library: Library) -> None:
    scores = torch.tensor([[float("nan"), -1.0, float("nan"), float("inf")]])
    selected, tree_parent = library.ops.select_tree(scores, int32([[7, -9, 2, 1]]), 4)
    assert selected.tolist() == [[0, 1, 3]]
    assert tree_parent.tolist() == [[-1, 0, 0, 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, dtype=torch.int32), None), "parent must be"),
        ((torch.zeros(1, 3), None), "parent must be Int, got Float"),
        ((torch.zeros(2, 6, dtype=torch.int32)[:, ::2], None), "contiguous in its last dim"),
        ((int32([[-1, 0]]), int32([1, 1])), "num_nodes must be"),
        ((int32([[-1, 0]]), torch.tensor([1])), "num_nodes must be Int, got Long"),
    ],
)
def test_build_tree_refuses_by_name(library: Library, arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=rf"build_tree: .*{message}"):
        library.ops.build_tree(*arguments)


@pytest.mark.parametrize("num_nodes", [0, 6, -1])
def test_select_tree_refuses_a_tree_larger_than_its_pool(library: Library, num_nodes: int) -> None:
    with pytest.raises(ValueError, match=r"select_tree: num_nodes must be in \[1, 5\]"):
        library.ops.select_tree(torch.zeros(1, 4), int32([[-1] * 4]), num_nodes)
