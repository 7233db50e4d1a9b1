"""TensorRT-LLM's masks, paths and accepted tokens, and ours."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from sglang_cases import runs_without_a_sync
from tensorrt_llm_cases import (
    DEEPEST,
    NODES,
    SIZES,
    accepted_as_documented,
    forest,
    verified,
)
from torch import Tensor
from tree_cases import climb, random_tree

from sparrow_kernels import (
    Acceptance,
    TreeLayout,
    build_tree,
    checks,
    compact_cache_,
    pack_ancestors,
    tree_attention,
)
from sparrow_kernels.integrations import tensorrt_llm as trt

int32 = torch.int32
# The trees of TensorRT-LLM's own test of its tree manager: paths, packed mask, position offsets.
DOCUMENTED = [
    (
        [[0], [0, 1], [0, 2], [0, 3], [0, 1, 4], [0, 1, 5], [0, 1, 6], [0, 2, 7], [0, 2, 8],
         [0, 3, 9], [0, 1, 4, 10]],
        [1, 3, 5, 9, 19, 35, 67, 133, 261, 521, 1043],
        [0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3],
    ),
    (
        [[0], [0, 1], [0, 2], [0, 3], [0, 1, 4], [0, 1, 5], [0, 2, 6], [0, 1, 4, 7], [0, 1, 4, 8],
         [0, 2, 6, 9]],
        [1, 3, 5, 9, 19, 35, 69, 147, 275, 581],
        [0, 1, 1, 1, 2, 2, 2, 3, 3, 3],
    ),
]  # fmt: skip


def paths_of(lists: list[list[int]], size: int) -> Tensor:
    rows = [path + [-1] * (size - len(path)) for path in lists]
    return torch.tensor([rows], dtype=int32)


def test_the_docstring_runs() -> None:
    names = {"torch": torch, "build_tree": build_tree}
    assert doctest.testmod(trt, extraglobs=names) == (0, 3)


@pytest.mark.parametrize(("lists", "words", "offsets"), DOCUMENTED)
def test_the_documented_trees(lists: list, words: list[int], offsets: list[int]) -> None:
    theirs = paths_of(lists, 4)
    layout = trt.layout_of_paths(theirs, len(lists))
    assert layout.parent.tolist() == [[-1] + [path[-2] for path in lists[1:]]]
    packed = trt.packed_mask(layout)
    assert (packed.tolist(), packed.dtype) == ([[[word] for word in words]], int32)
    assert packed.is_contiguous()
    assert torch.equal(trt.ancestors(packed), layout.ancestors)
    assert trt.position_offsets(layout).tolist() == [offsets]
    assert trt.generation_lengths(layout).tolist() == [len(lists)]
    assert torch.equal(trt.paths(layout, 4), theirs)
    # Medusa's paths lead to the leaves alone.
    parents = {path[-2] for path in lists[1:]}
    leaves = [path for path in lists if path[-1] not in parents]
    same = trt.layout_of_paths(paths_of(leaves, 4), len(lists))
    assert torch.equal(same.parent, layout.parent)


def test_words_of_more_than_32_nodes() -> None:
    """A chain of 34: node 31 fills the first word, which is -1; nodes 32 and 33 begin the next."""
    layout = build_tree(torch.arange(-1, 33, dtype=int32)[None])
    packed = trt.packed_mask(layout)[0]
    assert packed[30].tolist() == [2**31 - 1, 0] and packed[31].tolist() == [-1, 0]
    assert packed[32].tolist() == [-1, 1] and packed[33].tolist() == [-1, 3]
    assert trt.packed_mask(build_tree(torch.arange(-1, 31, dtype=int32)[None])).shape[2] == 1
    wide = trt.packed_mask(layout, 5)
    assert torch.equal(wide[0, :, :2], packed) and not wide[..., 2:].any()
    assert torch.equal(trt.ancestors(wide[..., :3])[..., :1], layout.ancestors)


def test_drawn_trees_there_and_back() -> None:
    layout = forest()
    packed = trt.packed_mask(layout)
    assert packed.shape == (5, NODES, 3)
    node = torch.arange(NODES)
    bits = (packed[..., node // 32] >> (node % 32)) & 1
    assert torch.equal(pack_ancestors(bits.bool()), layout.ancestors)
    assert torch.equal(trt.ancestors(packed), layout.ancestors)
    assert trt.generation_lengths(layout).tolist() == list(SIZES)
    assert torch.equal(trt.position_offsets(layout), layout.depth.clamp(min=0))
    rows = trt.paths(layout, DEEPEST)
    for b, size in enumerate(SIZES):
        tree = random_tree(size, b) if size else []
        for i in range(NODES):
            path = climb(tree, i)[::-1] if i < size else []
            assert rows[b, i].tolist() == path + [-1] * (DEEPEST - len(path))
    for mine, again in zip(layout, trt.layout_of_paths(rows, NODES), strict=True):
        if mine is not layout.parent:  # which keeps whatever padding held
            assert torch.equal(mine, again)


def test_a_step_by_paths() -> None:
    """What their kernel would write is what we accept; and what it wrote becomes an acceptance."""
    layout = forest()
    accepted, tokens, targets = verified(layout)
    assert accepted.accept_length.max() > 1
    rows = trt.paths(layout, DEEPEST)
    best, counts = trt.best_paths(accepted, rows)
    assert (best.dtype, counts.dtype) == (int32, int32)
    for b in range(5):
        if SIZES[b] == 0:
            assert (int(best[b]), int(counts[b])) == (0, 0)
            continue
        expected = accepted_as_documented(
            rows[b].tolist(), tokens[b, 1:].tolist(), targets[b].tolist()
        )
        assert (int(counts[b]), int(best[b])) == expected
    # Medusa's rows lead to the leaves alone: a path that was refused on the way is part of one.
    leaves = torch.where((layout.first_child < 0)[..., None], rows, -1)
    for b, (length, row) in enumerate(zip(counts.tolist(), best_of(accepted, leaves), strict=True)):
        if SIZES[b] > 0:
            expected = accepted_as_documented(
                leaves[b].tolist(), tokens[b, 1:].tolist(), targets[b].tolist()
            )
            assert (length, row) == expected
    # Sequences that held 11 tokens before the step.
    output_ids = torch.full((5, 11 + DEEPEST + 3), 7, dtype=int32)
    output_ids[:, 11 : 11 + DEEPEST] = accepted.tokens.int()
    again = trt.acceptance_by_paths(rows, best, counts, output_ids, 11 + counts)
    for mine, other in zip(accepted, again, strict=True):
        assert torch.equal(mine, other) and mine.dtype == other.dtype


def best_of(accepted: Acceptance, paths: Tensor) -> list[int]:
    return trt.best_paths(accepted, paths)[0].tolist()


def test_a_step_by_links() -> None:
    accepted = Acceptance(
        torch.tensor([[0, 2, 5, -1], [0, -1, -1, -1]], dtype=int32),
        torch.tensor([2, 0], dtype=int32),
        torch.tensor([[31, 32, 33, -1], [40, -1, -1, -1]]),
    )
    index, count, token = trt.accept_outputs(accepted)
    assert index.tolist() == [[0, 2, 5, 0], [0, 0, 0, 0]] and count.tolist() == [2, 0]
    assert token.tolist() == [[31, 32, 33, 0], [40, 0, 0, 0]]
    assert {each.dtype for each in (index, count, token)} == {torch.int64}
    index[:, 3], token[1, 1:] = 99, 98  # an earlier step's
    for mine, other in zip(accepted, trt.acceptance_by_links(index, count, token), strict=True):
        assert torch.equal(mine, other) and mine.dtype == other.dtype


def test_the_cache_moves_as_theirs_would() -> None:
    """`updateKVCacheDraftTokenLocation`: draft token `paths_offsets[i]` moves to place i behind the
    root's row, which lies where it belongs."""
    layout = forest((7, 0, 33, 1, 40), 40)
    accepted, _, _ = verified(layout, seed=1)
    begins, moved = trt.packed_paths(accepted)
    assert (begins.dtype, moved.dtype) == (int32, int32)
    prefix = torch.tensor([3, 0, 8, 2, 5], dtype=int32)
    cache = torch.randn(5, 1, 64, 4)
    theirs = cache.clone()
    for b in range(5):
        start = int(prefix[b]) + 1
        for place, token in enumerate(moved[begins[b] : begins[b + 1]].tolist()):
            theirs[b, :, start + place] = cache[b, :, start + token]
    compact_cache_([cache], [cache.clone()], accepted.path, accepted.accept_length, prefix)
    for b in range(5):
        end = int(prefix[b]) + int(accepted.accept_length[b]) + 1
        assert torch.equal(cache[b, :, :end], theirs[b, :, :end])
    assert not moved[begins[-1] :].any() and begins[-1] > 3


def test_attention_over_their_mask_is_tree_attention() -> None:
    layout, prefix = forest((7, 40), 40), torch.tensor([5, 3], dtype=int32)
    packed = trt.packed_mask(layout)
    query, key, value = torch.randn(2, 4, 40, 16), *torch.randn(2, 2, 2, 48, 16)
    out = tree_attention(query, key, value, trt.ancestors(packed), prefix)
    for b, length in enumerate(trt.generation_lengths(layout).tolist()):
        start = int(prefix[b])
        for i in range(length):
            seen = [j for j in range(length) if packed[b, i, j // 32] >> (j % 32) & 1]
            slots = [*range(start), *(start + j for j in seen)]
            keys, values = (each[b, :, slots].repeat_interleave(2, 0) for each in (key, value))
            scores = torch.einsum("hd,hsd->hs", query[b, :, i], keys) / math.sqrt(16)
            expected = torch.einsum("hs,hsd->hd", scores.softmax(-1), values)
            torch.testing.assert_close(out[b, :, i], expected)


def test_refusals() -> None:
    layout = forest((3, 2), 3)
    rows = trt.paths(layout, 3)
    accepted, _, _ = verified(layout)
    best, counts = trt.best_paths(accepted, trt.paths(layout, DEEPEST))
    ids = torch.zeros(2, 9, dtype=int32)
    of_paths = trt.layout_of_paths

    def path(*values: int) -> Tensor:
        return torch.tensor([[values]], dtype=int32)

    def by_paths(**changes: Tensor) -> Acceptance:
        given = {"paths": rows, "best_path_ids": best, "accepted_lengths": counts}
        given |= {"output_ids": ids, "sequence_lengths": counts}
        return trt.acceptance_by_paths(**(given | changes))

    def by_links(number: int) -> Acceptance:
        return trt.acceptance_by_links(ids[:, :3], torch.tensor([number, 0]), ids[:, :3])

    two_parents = torch.tensor([[[0, 1, 3], [0, 2, 3]]], dtype=int32)
    no_row = torch.full_like(rows, -1)
    cases = [
        (lambda: trt.packed_mask(layout, 0), ValueError, "at least 1 for 3 nodes, got 0"),
        (lambda: trt.ancestors(layout.ancestors), TypeError, "int32, got int64"),
        (lambda: trt.paths(layout, 0), ValueError, "max_path"),
        (lambda: trt.paths(build_tree(torch.tensor([[-1, 0]]).int()), 1), ValueError, "below max"),
        (lambda: of_paths(path(0, 5), 5), ValueError, "below num_nodes = 5"),
        (lambda: of_paths(path(1, 2), 5), ValueError, "the root"),
        (lambda: of_paths(path(0, -1, 2), 5), ValueError, "behind the end"),
        (lambda: of_paths(path(0, 0), 3), ValueError, "build_tree"),
        (lambda: of_paths(two_parents, 4), ValueError, "one parent"),
        (lambda: of_paths(path(0, 2, 1), 3), ValueError, "build_tree"),
        (lambda: of_paths(path(0).long(), 3), TypeError, "int64"),
        (lambda: trt.best_paths(accepted, no_row), ValueError, "a row of paths begins with"),
        (lambda: by_paths(accepted_lengths=counts + 4), ValueError, "0 to max_path = 3"),
        (lambda: by_paths(best_path_ids=best + 4), ValueError, "best_path_ids"),
        (lambda: by_paths(sequence_lengths=counts - 1), ValueError, "sequence_lengths"),
        (lambda: by_paths(output_ids=ids[:1]), ValueError, r"output_ids must be \[2, any\]"),
        (lambda: by_links(3), ValueError, "0 to S - 1 = 2"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()


def test_unchecked_values_read_nothing_outside() -> None:
    rows = trt.paths(forest((3, 2), 3), 3)
    wild = torch.tensor([900, -900], dtype=int32)
    ids = torch.zeros(2, 9, dtype=int32)
    with checks(False):
        assert trt.layout_of_paths(rows * 99, 3).parent.shape == (2, 3)
        found = trt.acceptance_by_paths(rows, wild, wild, ids, wild)
        assert found.accept_length.tolist() == [2, -1] and found.path[1].tolist() == [-1] * 3
        assert trt.acceptance_by_links(ids[:, :3], wild, ids[:, :3]).accept_length.tolist() == [
            2,
            0,
        ]
        assert trt.paths(build_tree(torch.tensor([[-1, 0]]).int()), 1).tolist() == [[[0], [-1]]]


@pytest.mark.gpu
def test_nobody_waits_for_the_gpu() -> None:
    layout = TreeLayout(*(each.cuda() for each in forest((7, 3), 8)))
    accepted = Acceptance(*(each.cuda() for each in verified(forest((7, 3), 8))[0]))
    ids = torch.zeros(2, 99, dtype=int32, device="cuda")

    def run() -> None:
        trt.ancestors(trt.packed_mask(layout))
        rows = trt.paths(layout, DEEPEST)
        trt.layout_of_paths(rows, 8)
        best, counts = trt.best_paths(accepted, rows)
        trt.acceptance_by_paths(rows, best, counts, ids, counts)
        trt.acceptance_by_links(*trt.accept_outputs(accepted))
        trt.packed_paths(accepted)

    runs_without_a_sync(run)


def test_against_the_real_package() -> None:
    real = pytest.importorskip(
        "tensorrt_llm.runtime.medusa_utils", reason="tensorrt_llm is not installed"
    )
    layout = build_tree(torch.tensor([random_tree(70, 1)], dtype=int32))
    sees = trt.packed_mask(layout)[0]
    dense = torch.tensor(
        [[i in climb(random_tree(70, 1), k) for i in range(70)] for k in range(70)]
    )
    assert torch.equal(real.get_packed_mask(69, dense[1:, 1:]), sees)
