"""Ancestor words and dense masks, against sets of nodes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import Tree, climb, forests, padded, random_tree

from sparrow_kernels import build_tree, dense_tree_mask, pack_ancestors, unpack_ancestors
from sparrow_kernels.ops import env


@pytest.mark.parametrize("size", [1, 5, 63, 64, 65, 127, 128, 130])
def test_words_are_raw_bit_patterns(size: int) -> None:
    mask = torch.rand(2, size, size, generator=torch.Generator().manual_seed(size)) < 0.5
    mask[0, 0] = True
    words = pack_ancestors(mask)
    assert words.dtype == torch.int64
    assert words.shape == (2, size, -(-size // 64))
    for b in range(2):
        for node in range(size):
            bits = sum(word % 2**64 << 64 * w for w, word in enumerate(words[b, node].tolist()))
            assert bits == sum(1 << j for j in range(size) if mask[b, node, j])
    assert torch.equal(unpack_ancestors(words, size), mask)


def test_bit_63_is_just_a_bit() -> None:
    words = torch.tensor([[[-(2**63), -1, 1]]])
    expected = [63, *range(64, 128), 128]
    assert unpack_ancestors(words, 192)[0, 0].nonzero()[:, 0].tolist() == expected
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 3, 63] = True
    assert pack_ancestors(mask)[0, 3].tolist() == [-(2**63)]


def test_unpacking_what_build_tree_packed() -> None:
    tree = random_tree(130, 9)
    words = build_tree(torch.tensor([tree], dtype=torch.int32)).ancestors
    mask = unpack_ancestors(words, 130)
    for node in range(130):
        assert mask[0, node].nonzero()[:, 0].tolist() == sorted(climb(tree, node))
    assert torch.equal(pack_ancestors(mask), words)


@given(forests(), st.data())
@settings(max_examples=60, deadline=None)
def test_dense_mask(drawn: tuple[list[Tree], int], data: st.DataObject) -> None:
    batch, size = drawn
    capacity = data.draw(st.integers(1, 20))
    lens = [data.draw(st.integers(0, capacity)) for _ in batch]
    starts = data.draw(st.one_of(st.none(), st.just([data.draw(st.integers(0, n)) for n in lens])))
    mask = dense_tree_mask(
        build_tree(*padded(batch, size)),
        torch.tensor(lens, dtype=torch.int32),
        capacity,
        None if starts is None else torch.tensor(starts, dtype=torch.int32),
    )
    assert mask.shape == (len(batch), 1, size, capacity)
    for b, tree in enumerate(batch):
        start = 0 if starts is None else starts[b]
        for node in range(size):
            own = {lens[b] + j for j in climb(tree, node)} if node < len(tree) else set()
            seen = {s for s in range(capacity) if start <= s < lens[b] or s in own}
            assert set(mask[b, 0, node].nonzero()[:, 0].tolist()) == seen


def test_dense_mask_refuses_lengths() -> None:
    layout = build_tree(torch.tensor([[-1, 0], [-1, 0]], dtype=torch.int32))
    lens = torch.tensor([3, 9], dtype=torch.int32)
    with pytest.raises(
        ValueError, match=r"prefix_lens must be in 0..capacity = 8, got .*\[1\] = 9"
    ):
        dense_tree_mask(layout, lens, 8)
    with pytest.raises(ValueError, match=r"prefix_starts must be .*, got prefix_starts\[0\] = 4"):
        dense_tree_mask(layout, lens, 9, prefix_starts=torch.tensor([4, 1], dtype=torch.int32))
    with env.checks(False):
        mask = dense_tree_mask(layout, torch.tensor([-3, 99], dtype=torch.int32), 8)
    assert mask[1].all()
    assert not mask[0].any()


def test_wrong_kinds_are_refused() -> None:
    layout = build_tree(torch.tensor([[-1, 0]], dtype=torch.int32))
    with pytest.raises(TypeError, match="layout must be a TreeLayout, got tuple"):
        dense_tree_mask(tuple(layout), torch.tensor([3], dtype=torch.int32), 8)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pack_ancestors: mask must be bool"):
        pack_ancestors(torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="pack_ancestors: mask must be"):
        pack_ancestors(torch.zeros(1, 2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"T must be in 0..64 \* W = 64, got 65"):
        unpack_ancestors(layout.ancestors, 65)


@pytest.mark.slow
def test_masks_compile_without_a_break() -> None:
    def through(parent: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layout = build_tree(parent)
        mask = dense_tree_mask(layout, lens, 100)
        return mask, pack_ancestors(unpack_ancestors(layout.ancestors, parent.shape[1]))

    torch._dynamo.reset()
    compiled = torch.compile(through, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (66, 40):
        parent = torch.tensor([random_tree(size, 3)] * 2, dtype=torch.int32)
        lens = torch.tensor([3, 9], dtype=torch.int32)
        for got, expected in zip(compiled(parent, lens), through(parent, lens), strict=True):
            assert torch.equal(got, expected)
