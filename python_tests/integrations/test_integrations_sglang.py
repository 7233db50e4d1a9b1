"""sgl-kernel's tree calls over our ops: trees, their links and masks."""

from __future__ import annotations

import doctest

import numpy
import pytest
import torch
from sglang_cases import Grown, grow, links, runs_without_a_sync, sees
from torch import Tensor
from tree_cases import climb

from sparrow_kernels import checks
from sparrow_kernels.integrations import sglang
from sparrow_kernels.integrations.sglang import (
    build_tree_kernel_efficient,
    reconstruct_indices_from_tree_mask,
)
from sparrow_kernels.testing import GuardRows

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
# topk, depth, nodes: chains have one child a node, depth 1 has no parent list, stars no depth.
SHAPES = {
    "root alone": (2, 1, 1),
    "star of depth 1": (4, 1, 4),
    "chain": (1, 5, 6),
    "2 nodes": (3, 3, 2),
    "8 nodes, one byte": (2, 4, 8),
    "9 nodes, two bytes": (3, 3, 9),
    "16 nodes": (4, 3, 16),
    "17 nodes, four bytes": (4, 4, 17),
    "30 nodes": (8, 4, 30),
    "32 nodes": (8, 3, 32),
    "33 nodes": (8, 3, 33),
    "65 nodes, two words": (8, 4, 65),
    "130 nodes": (10, 4, 130),
}
NAMED = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
PREFILL = -7


def lengths(batch: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.tensor([3, 0, 11, 1, 7][:batch], dtype=dtype, device=device)


class Build:
    """A batch of grown requests, and one call on it into prefilled, guarded buffers."""

    def __init__(self, shape: tuple[int, int, int], device: str, batch: int = 4) -> None:
        self.topk, self.depth, self.nodes = shape
        self.batch, self.device = batch, device
        self.grown = [grow(*shape, seed=seed) for seed in range(batch)]
        self.trees = [each.tree(self.topk) for each in self.grown]
        self.seq_len = lengths(batch, torch.int64, device)
        self.guards = GuardRows()
        self.positions = self.filled(batch * self.nodes)
        self.index, self.next_token, self.next_sibling = (
            self.filled(batch, self.nodes) for _ in range(3)
        )

    def filled(self, *shape: int, dtype: torch.dtype = torch.int64, fill: int = PREFILL) -> Tensor:
        buffer = self.guards.empty(*shape, dtype=dtype, device=self.device)
        return buffer.fill_(fill)

    def history(self) -> tuple[Tensor, Tensor]:
        parents = torch.tensor([each.parent_list for each in self.grown], device=self.device)
        selected = torch.tensor([each.selected for each in self.grown], device=self.device).long()
        if self.depth == 1:
            parents = parents[:, :0]  # what sglang hands over
        return parents, selected

    def run(self, mask: Tensor, mode: int) -> None:
        parents, selected = self.history()
        build_tree_kernel_efficient(
            parents,
            selected,
            self.seq_len,
            mask,
            self.positions,
            self.index,
            self.next_token,
            self.next_sibling,
            self.topk,
            self.depth,
            self.nodes,
            mode,
        )
        self.guards.check()

    def expect_links(self) -> None:
        for b, tree in enumerate(self.trees):
            first, later = links(tree)
            depth = [len(climb(tree, node)) - 1 for node in range(self.nodes)]
            start = b * self.nodes
            assert self.index[b].tolist() == list(range(start, start + self.nodes))
            assert self.next_token[b].tolist() == first
            assert self.next_sibling[b].tolist() == later
            seq_len = int(self.seq_len[b])
            positions = self.positions[start : start + self.nodes].tolist()
            assert positions == [seq_len + d for d in depth]


@DEVICES
@NAMED
@pytest.mark.parametrize("prefix", [True, False])
def test_full_mask_leaves_the_prefix(
    shape: tuple[int, int, int], prefix: bool, device: str
) -> None:
    build = Build(shape, device)
    expected: list[bool] = []
    for tree, seq_len in zip(build.trees, build.seq_len.tolist(), strict=True):
        for row in sees(tree):
            expected += [prefix] * seq_len + row
    slack = 5  # a buffer that serves more than one batch is larger
    mask = build.filled(len(expected) + slack, dtype=torch.bool, fill=prefix)
    build.run(mask, 0)
    assert mask.tolist() == expected + [prefix] * slack
    build.expect_links()


@DEVICES
@NAMED
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_tree_mask(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
    build = Build(shape, device)
    mask = build.filled(build.batch * build.nodes**2, dtype=dtype, fill=1)
    build.run(mask, 1)
    rows = mask.view(build.batch, build.nodes, build.nodes)
    assert rows.bool().tolist() == [sees(tree) for tree in build.trees]
    build.expect_links()


@DEVICES
@NAMED
@pytest.mark.parametrize("spelling", ["bytes", "words"])
def test_packed_mask(shape: tuple[int, int, int], spelling: str, device: str) -> None:
    build = Build(shape, device)
    width = 1 if build.nodes <= 8 else 2 if build.nodes <= 16 else 4
    wide = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}[width]
    size = build.batch * build.nodes
    if spelling == "bytes":
        mask = build.filled(size * width, dtype=torch.uint8, fill=0)
    else:
        mask = torch.zeros(size, dtype=wide, device=device)
    if build.nodes > 32:
        with pytest.raises(ValueError, match=r"draft_token_num must be at most 32 .* got "):
            build.run(mask, 2)
        assert not mask.view(torch.uint8).any()
        assert bool((build.index == PREFILL).all())
        return
    build.run(mask, 2)
    got = mask.view(torch.uint8).view(-1, width).cpu().numpy()
    rows = numpy.array([row for tree in build.trees for row in sees(tree)])
    expected = numpy.zeros_like(got)
    packed = numpy.packbits(rows, axis=1, bitorder="little")
    expected[:, : packed.shape[1]] = packed
    assert (got == expected).all()
    build.expect_links()


@DEVICES
@NAMED
def test_reconstruction_is_the_way_back(shape: tuple[int, int, int], device: str) -> None:
    build = Build(shape, device)
    mask = build.filled(build.batch * build.nodes**2, dtype=torch.bool, fill=0)
    build.run(mask, 1)
    again = [torch.full_like(each, PREFILL) for each in (build.positions, build.index)]
    again += [torch.full_like(build.index, PREFILL) for _ in range(2)]
    reconstruct_indices_from_tree_mask(mask, build.seq_len.int(), *again, build.batch, build.nodes)
    built = (build.positions, build.index, build.next_token, build.next_sibling)
    for got, expected in zip(again, built, strict=True):
        assert torch.equal(got, expected)


def test_an_empty_batch_and_int32_buffers() -> None:
    build, none = Build((2, 2, 3), "cpu", batch=0), torch.zeros(0, 3).long()
    links = (none.view(-1), none, none, none)
    for mode in (0, 1, 2):
        mask = torch.zeros(0, dtype=torch.uint8)
        build_tree_kernel_efficient(none, none[:, :2], build.seq_len, mask, *links, 2, 2, 3, mode)
    build = Build((2, 2, 3), "cpu")
    build.positions, build.index = build.positions.int(), build.index.int()
    build.next_token, build.next_sibling = build.next_token.int(), build.next_sibling.int()
    build.seq_len = build.seq_len.int()
    build.run(torch.zeros(36, dtype=torch.bool), 1)
    build.expect_links()


def test_a_selection_that_is_no_tree() -> None:
    """Node 2's parent, flat index 1, was not selected."""
    build = Build((2, 2, 3), "cpu", batch=2)
    build.grown = [Grown([-1, 0, 1], [0, 4]), Grown([-1, 0, 1], [0, 2])]
    mask = torch.zeros(18, dtype=torch.bool)
    with pytest.raises(
        ValueError, match=r"build_tree_kernel_efficient: the nodes must form a tree"
    ):
        build.run(mask, 1)
    assert not mask.any()
    with checks(False):  # as on a GPU
        build.run(mask, 1)
    assert build.next_token.tolist() == [[-1, -1, -1], [1, 2, -1]]
    assert mask.view(2, 9)[0].nonzero().tolist() == [[0]]


@pytest.mark.parametrize("seed", range(20))
def test_junk_indices_stay_inside(seed: int) -> None:
    """Unchecked, whatever the history holds: only the named buffers are written."""
    draw = torch.Generator().manual_seed(seed)
    build = Build((3, 3, 6), "cpu")
    big = 2**40

    def junk(*shape: int) -> Tensor:
        small = torch.randint(-9, 30, shape, generator=draw)
        return torch.where(torch.rand(shape, generator=draw) < 0.2, small * big, small)

    mask = build.filled(4 * 36, dtype=torch.bool, fill=0)
    arguments = (build.positions, build.index, build.next_token, build.next_sibling)
    with checks(False):
        build_tree_kernel_efficient(
            junk(4, 7), junk(4, 5), build.seq_len, mask, *arguments, 3, 3, 6, 1
        )
    build.guards.check()
    for linked in (build.next_token, build.next_sibling):
        number = torch.arange(6)
        assert bool(((linked == -1) | ((linked > number) & (linked < 6))).all())


def test_a_full_mask_too_small_for_its_lengths() -> None:
    build = Build((2, 2, 3), "cpu", batch=2)  # lengths 3 and 0: 3 * 6 + 3 * 3
    mask = torch.zeros(26, dtype=torch.bool)
    with pytest.raises(ValueError, match="tree_mask must be of N .* 27 in all, got 26"):
        build.run(mask, 0)
    assert not mask.any()
    assert bool((build.index == PREFILL).all())


BAD = {
    "mode": ({"mode": 3}, ValueError, "tree_mask_mode must be 0, 1 or 2, got 3"),
    "short mask": ({"mask": torch.zeros(35, dtype=torch.bool)}, ValueError, "at least 36"),
    "mask dtype": ({"mask": torch.zeros(36)}, TypeError, "tree_mask must be bool or uint8"),
    "positions": ({"positions": torch.zeros(11).long()}, ValueError, "positions must be of at"),
    "float": ({"index": torch.zeros(4, 3)}, TypeError, "retrieve_index must be int32 or int64"),
    "strided": ({"next_token": torch.zeros(4, 6).long()[:, ::2]}, ValueError, "contiguous"),
    "lengths": ({"seq_len": torch.zeros(4, 1).long()}, ValueError, "verified_seq_len must be"),
    "topk": ({"topk": 0}, ValueError, "must be at least 1"),
    "nodes": ({"nodes": 4}, ValueError, r"selected_index must be \[4, 3\], got \[4, 2\]"),
    "depth": ({"depth": 3}, ValueError, r"parent_list must be \[4, 5\], got \[4, 3\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    changes, kind, message = BAD[name]
    build = Build((2, 2, 3), "cpu")
    mask = changes.get("mask", torch.zeros(36, dtype=torch.bool))
    for attribute, value in changes.items():
        setattr(build, attribute, value)
    with pytest.raises(kind, match=message):
        build.run(mask, changes.get("mode", 1))
    assert not mask.any()
    if "positions" not in changes:
        assert bool((build.positions == PREFILL).all())


def test_the_docstring_runs() -> None:
    assert doctest.testmod(sglang, extraglobs={"torch": torch}).failed == 0
    assert sglang.__doc__ is not None and ">>>" in sglang.__doc__


@pytest.mark.gpu
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_building_does_not_wait_for_the_gpu(mode: int) -> None:
    build = Build((4, 3, 16), "cuda")
    mask = torch.zeros(4 * 16 * 64, dtype=torch.uint8, device="cuda")
    tree = torch.ones(4, 16, 16, dtype=torch.bool, device="cuda").tril()
    links = (build.positions, build.index, build.next_token, build.next_sibling)
    parents, selected = build.history()

    def run() -> None:
        arguments = (parents, selected, build.seq_len, mask, *links)
        build_tree_kernel_efficient(*arguments, 4, 3, 16, mode)
        reconstruct_indices_from_tree_mask(tree, build.seq_len, *links, 4, 16)

    runs_without_a_sync(run)
