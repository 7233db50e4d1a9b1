"""Trees for tests: named ones, drawn ones, and what their definition says about each, in plain
Python. A tree is a list of parents, the empty list an idle request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from sparrow_kernels.ops.registry import Op
from sparrow_kernels.testing import chain_parents, random_parents, star_parents

Tree = list[int]
SIZES = (1, 2, 3, 7, 30, 63, 64, 65, 127, 128, 129)


def backends(op: Op) -> list[str]:
    """The backends that can run `op` on this machine."""
    return [name for name in ("reference", "native") if op.unavailable(name) is None]


def each_backend(op: Op) -> Callable:
    """Runs a test once a backend, as its argument `backend`."""
    import pytest

    return pytest.mark.parametrize("backend", backends(op))


def random_tree(size: int, seed: int) -> Tree:
    with torch.device("cpu"):  # where the generator is, whatever device a test made the default
        return random_parents(size, torch.Generator().manual_seed(seed)).tolist()


def named_trees() -> dict[str, Tree]:
    return {
        "root": [-1],
        "chain": chain_parents(9).tolist(),
        "star": star_parents(12).tolist(),
        "64": random_tree(64, 1),
        "65": random_tree(65, 2),
        "chain of 65": chain_parents(65).tolist(),
        "128": random_tree(128, 3),
        "star of 129": star_parents(129).tolist(),
    }


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 20, min_nodes: int = 0) -> Tree:
    size = draw(st.integers(min_nodes, max_nodes))
    return [-1 if node == 0 else draw(st.integers(0, node - 1)) for node in range(size)]


@st.composite
def forests(draw: st.DrawFn, max_nodes: int = 12) -> tuple[list[Tree], int]:
    """A ragged batch of trees, idle ones among them, and the T that holds it."""
    batch = draw(st.lists(trees(max_nodes), min_size=1, max_size=4))
    return batch, max(1, max(map(len, batch)) + draw(st.integers(0, 2)))


def padded(batch: Sequence[Tree], size: int, padding: int = 12345) -> tuple[Tensor, Tensor]:
    """`parent` `[B, T]` with junk in its padding, and `num_nodes` `[B]`."""
    parent = torch.full((len(batch), size), padding, dtype=torch.int32)
    for row, tree in zip(parent, batch, strict=True):
        row[: len(tree)] = torch.tensor(tree, dtype=torch.int32)
    return parent, torch.tensor([len(tree) for tree in batch], dtype=torch.int32)


def climb(tree: Tree, node: int) -> list[int]:
    """`node` and its ancestors, up to the root."""
    path = [node]
    while tree[path[-1]] != -1:
        path.append(tree[path[-1]])
    return path


def children(tree: Tree, node: int) -> list[int]:
    return [child for child in range(1, len(tree)) if tree[child] == node]


def strided(tensor: Tensor) -> Tensor:
    """The same values behind odd strides; the last dim stays contiguous."""
    wide = tensor.new_empty((*tensor.shape[:-2], tensor.shape[-2] * 2 + 1, tensor.shape[-1] + 3))
    view = wide[..., 1::2, 2:-1]
    assert view.shape == tensor.shape
    return view.copy_(tensor)
