"""FlashInfer's masks, pages, rows and log-sum-exps, and ours."""

from __future__ import annotations

import doctest
import math

import flashinfer_stand_in
import numpy
import pytest
import torch
from sglang_cases import runs_without_a_sync
from torch import Tensor
from tree_cases import padded, random_tree

from sparrow_kernels import TreeLayout, build_tree, checks, tree_attention
from sparrow_kernels.integrations import flashinfer

int32 = torch.int32
# Trees of several sizes, an idle request, and a T with padding; committed slots of each.
SIZES, PREFIXES, NODES = (7, 0, 33, 1, 70), (5, 9, 0, 16, 40), 72


def forest(sizes: tuple[int, ...] = SIZES, nodes: int = NODES) -> TreeLayout:
    trees = [random_tree(size, seed) if size else [] for seed, size in enumerate(sizes)]
    return build_tree(*padded(trees, nodes))


def lens(values: tuple[int, ...] = PREFIXES) -> Tensor:
    return torch.tensor(values, dtype=int32)


def test_the_docstring_runs() -> None:
    names = {"torch": torch, "build_tree": build_tree}
    assert doctest.testmod(flashinfer, extraglobs=names) == (0, 3)


def test_a_mask_by_hand() -> None:
    """One committed slot and a root with two children; two and a chain of two."""
    parent = torch.tensor([[-1, 0, 0], [-1, 0, 7]], dtype=int32)
    layout = build_tree(parent, torch.tensor([3, 2], dtype=int32))
    assert flashinfer.qo_indptr(layout).tolist() == [0, 3, 5]
    mask, indptr = flashinfer.custom_mask(layout, lens((1, 2)))
    assert mask.int().tolist() == [1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    assert (indptr.tolist(), indptr.dtype) == ([0, 12, 20], int32)
    packed, begins = flashinfer.packed_custom_mask(layout, lens((1, 2)))
    # The first element is the lowest bit; the second request begins a byte of its own.
    assert (packed.tolist(), begins.tolist()) == ([0b01110011, 0b1011, 0b11110111], [0, 2, 3])
    assert (packed.dtype, begins.dtype) == (torch.uint8, int32)
    # With room to spare nobody has to count: the rest is 0.
    mask, indptr = flashinfer.custom_mask(layout, lens((1, 2)), 25)
    assert mask.int().tolist()[20:] == [0] * 5 and indptr.tolist() == [0, 12, 20]
    packed, begins = flashinfer.packed_custom_mask(layout, lens((1, 2)), 25)
    assert packed.tolist() == [0b01110011, 0b1011, 0b11110111, 0, 0, 0]
    assert begins.tolist() == [0, 2, 3]


def test_masks_of_drawn_trees() -> None:
    layout, prefix = forest(), lens()
    mask, indptr = flashinfer.custom_mask(layout, prefix)
    packed, begins = flashinfer.packed_custom_mask(layout, prefix)
    segments = [mask[begin:end] for begin, end in zip(indptr[:-1], indptr[1:], strict=True)]
    # "The semantics of this function is the same as numpy.packbits", a segment at a time.
    expected = [numpy.packbits(each.numpy(), bitorder="little").tolist() for each in segments]
    assert packed.tolist() == sum(expected, [])
    assert begins.diff().tolist() == [len(each) for each in expected]
    rows = flashinfer.qo_indptr(layout)
    for theirs in ((mask, indptr), (packed, begins)):
        words = flashinfer.ancestors(*theirs, rows, prefix, NODES)
        assert torch.equal(words, layout.ancestors)


def test_a_mask_that_is_no_tree_is_kept() -> None:
    """Both rows see both slots; the bits count as they are."""
    mask, indptr = torch.ones(6, dtype=torch.bool), torch.tensor([0, 6], dtype=int32)
    words = flashinfer.ancestors(mask, indptr, torch.tensor([0, 2], dtype=int32), lens((1,)), 2)
    assert words.tolist() == [[[3], [3]]]


def test_pages_as_documented() -> None:
    """The example of `append_paged_kv_cache`: 45, 8, 25 and 22 slots in pages of 16."""
    indptr = torch.tensor([0, 3, 4, 6, 8], dtype=int32)
    last = torch.tensor([13, 8, 9, 6], dtype=int32)
    table, slots = flashinfer.block_table(indptr, torch.arange(8, dtype=int32), last, 16, 3)
    assert slots.tolist() == [45, 8, 25, 22]
    assert table.tolist() == [[0, 1, 2], [3, 0, 0], [4, 5, 0], [6, 7, 0]]
    assert (table.dtype, slots.dtype) == (int32, int32)
    back = flashinfer.paged_kv(table, slots, 16)
    assert [each.dtype for each in back] == [int32] * 3
    assert back[0].tolist() == indptr.tolist() and back[2].tolist() == last.tolist()
    assert back[1].tolist() == [*range(8), 0, 0, 0, 0]


def test_pages_there_and_back() -> None:
    """Full last pages, requests without a page, pages of 1 and 5."""
    for page_size in (1, 5):
        slots = lens((0, 1, 5, 6, 10, 0))
        table = torch.randperm(60)[: 6 * 10].int().view(6, 10)
        indptr, indices, last = flashinfer.paged_kv(table, slots, page_size)
        used = [-(-n // page_size) for n in slots.tolist()]
        assert indptr.diff().tolist() == used
        expected = [page for row, n in zip(table.tolist(), used, strict=True) for page in row[:n]]
        assert indices.tolist()[: len(expected)] == expected
        again, same = flashinfer.block_table(indptr, indices, last, page_size, 10)
        assert torch.equal(same, slots)
        for row, n in enumerate(used):
            assert torch.equal(again[row, :n], table[row, :n])
            assert not again[row, n:].any()


def test_caches_are_views() -> None:
    for kv_layout, axis in (("NHD", 3), ("HND", 2)):
        shape = [7, 2, 4, 4, 8]
        shape[axis] = 3
        both = torch.randn(shape)
        key, value = flashinfer.caches(both, kv_layout)
        assert key.shape == value.shape == (7, 3, 4, 8)
        value[6, 2, 1] = 5.0
        where = (6, 1, 1, 2) if kv_layout == "NHD" else (6, 1, 2, 1)
        assert both[where].tolist() == [5.0] * 8 and (both == 5.0).sum() == 8
        assert torch.equal(flashinfer.caches((both[:, 0], both[:, 1]), kv_layout)[0], key)


def test_log_sum_exps_change_base() -> None:
    """log2 8 = 3 is ln 8; two rows of one request, one of the other."""
    theirs = torch.tensor([[3.0, 0.0], [1.0, -math.inf], [2.0, -1.0]])
    indptr = torch.tensor([0, 2, 3], dtype=int32)
    ours = flashinfer.natural_lse(theirs, indptr, 2)
    inf = math.inf
    expected = [[[8.0, 2.0], [1.0, 0.0]], [[4.0, 0.0], [0.5, 0.0]]]
    torch.testing.assert_close(ours.exp(), torch.tensor(expected))
    assert ours[1, :, 1].tolist() == [-inf, -inf] and ours[0, 1, 1] == -inf
    torch.testing.assert_close(flashinfer.base2_lse(ours, indptr, 3), theirs)
    assert flashinfer.base2_lse(ours, indptr, 4)[3].tolist() == [-inf, -inf]


def test_rows_there_and_back() -> None:
    indptr = torch.tensor([0, 2, 2, 5], dtype=int32)
    rows = torch.randn(5, 3, 4)
    batch = flashinfer.batched_rows(rows, indptr, 3)
    assert batch.shape == (3, 3, 3, 4) and not batch[1].any() and not batch[0, :, 2].any()
    assert torch.equal(batch[2, :, 1], rows[3])
    assert torch.equal(flashinfer.ragged_rows(batch, indptr, 5), rows)
    assert not flashinfer.ragged_rows(batch, indptr, 7)[5:].any()
    assert flashinfer.batched_rows(rows[:0], torch.zeros(2, dtype=int32), 2).shape == (1, 3, 2, 4)


@pytest.mark.parametrize("kv_layout", flashinfer.pages.LAYOUTS)
def test_attention_over_their_data_is_tree_attention(kv_layout: str) -> None:
    """Their wrapper, over their rows, pages and mask, says what ours says over the same pages."""
    page_size, heads, kv_heads, head_dim = 4, 4, 2, 16
    layout, prefix = forest((7, 3, 12), 12), lens((5, 8, 2))
    num_nodes = (layout.depth >= 0).sum(-1).int()
    kv_lens = prefix + num_nodes
    table = torch.randperm(24)[:18].int().view(3, 6)
    shape = [24, 2, page_size, kv_heads, head_dim]
    if kv_layout == "HND":
        shape[2:4] = shape[3], shape[2]
    cache = torch.randn(shape)
    rows = torch.randn(int(num_nodes.sum()), heads, head_dim)

    qo_indptr = flashinfer.qo_indptr(layout)
    indptr, indices, last = flashinfer.paged_kv(table, kv_lens, page_size)
    mask, _ = flashinfer.custom_mask(layout, prefix)
    wrapper = flashinfer_stand_in.BatchPrefillWithPagedKVCacheWrapper(
        torch.empty(0), "HND", backend="fa2"
    )
    wrapper.plan(
        qo_indptr, indptr, indices[: int(indptr[-1])], last, heads, kv_heads, head_dim, page_size,
        custom_mask=mask, q_data_type=torch.float32,
    )  # fmt: skip
    pages = flashinfer.caches(cache, kv_layout)
    theirs, their_lse = wrapper.run(rows, pages, return_lse=True)

    # And back: from their data alone.
    back, lens_ = flashinfer.block_table(indptr, indices, last, page_size, 6)
    before = lens_ - qo_indptr.diff()
    words = flashinfer.ancestors(mask, (mask_indptr(qo_indptr, lens_)), qo_indptr, before, 12)
    query = flashinfer.batched_rows(rows, qo_indptr, 12)
    out, lse = tree_attention(query, *pages, words, before, return_lse=True, block_table=back)
    torch.testing.assert_close(flashinfer.ragged_rows(out, qo_indptr, len(rows)), theirs)
    torch.testing.assert_close(flashinfer.base2_lse(lse, qo_indptr, len(rows)), their_lse)
    natural = flashinfer.natural_lse(their_lse, qo_indptr, 12)
    is_row = layout.depth >= 0
    for request in range(3):
        real = is_row[request]
        torch.testing.assert_close(natural[request][:, real], lse[request][:, real])


def mask_indptr(qo_indptr: Tensor, kv_lens: Tensor) -> Tensor:
    """As the tutorial says: `mask_indptr[1:] = cumsum(qo_len * kv_len)`."""
    return torch.cat((qo_indptr[:1], (qo_indptr.diff() * kv_lens).cumsum(0).int()))


def test_refusals() -> None:
    layout, prefix = forest((3, 2), 3), lens((2, 2))
    mask, indptr = flashinfer.custom_mask(layout, prefix)
    rows, two = flashinfer.qo_indptr(layout), torch.tensor([0, 1, 2], dtype=int32)
    holed = mask.clone()
    holed[int(indptr[1]) + 1] = False
    pages, lse = torch.zeros(4, 2, 2, 1, 8), torch.zeros(2, 1)
    ancestors, table = flashinfer.ancestors, flashinfer.block_table
    cases = [
        (lambda: flashinfer.custom_mask(layout, prefix.long()), TypeError, "prefix_lens.*int64"),
        (lambda: flashinfer.custom_mask(layout, prefix[:1]), ValueError, r"prefix_lens.*\[1\]"),
        (lambda: flashinfer.custom_mask(layout, -prefix), ValueError, r"prefix_lens\[0\] = -2"),
        (lambda: flashinfer.custom_mask(layout, prefix, 9), ValueError, "num_elements = 9"),
        (lambda: ancestors(mask.float(), indptr, rows, prefix, 3), TypeError, "float32"),
        (lambda: ancestors(mask, indptr + 1, rows, prefix, 3), ValueError, "mask_indptr"),
        (lambda: ancestors(mask, two, rows, prefix, 3), ValueError, "as long a request"),
        (lambda: ancestors(mask, indptr, rows, prefix, 2), ValueError, "at most size = 2"),
        (lambda: ancestors(holed, indptr, rows, prefix, 3), ValueError, "row 0 of request 1"),
        (lambda: table(two, two[:2], two[1:], 0, 1), ValueError, "page_size"),
        (lambda: table(two, two[:2], two[1:], 1, 1), ValueError, r"last_page_len\[1\] = 2"),
        (lambda: table(two, two[:1], two[1:], 2, 1), ValueError, "up to 1"),
        (lambda: table(2 * two, two, two[1:], 2, 1), ValueError, "max_pages = 1"),
        (lambda: flashinfer.paged_kv(two[None], lens((7,)), 2), ValueError, r"kv_lens\[0\] = 7"),
        (lambda: flashinfer.caches(pages, "DHN"), ValueError, "NHD or HND, got DHN"),
        (lambda: flashinfer.caches(pages[:, 0]), ValueError, "a pair of tensors"),
        (lambda: flashinfer.caches((pages[:, 0], pages[:2, 0])), ValueError, "twice"),
        (lambda: flashinfer.natural_lse(lse.double(), two, 1), TypeError, "float64"),
        (lambda: flashinfer.base2_lse(lse[None], rows[:1], 1), ValueError, r"\[B \+ 1\] = \[2\]"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()


def test_unchecked_values_read_nothing_outside() -> None:
    layout, prefix = forest((3, 2), 3), lens((2, 2))
    wild = torch.tensor([0, 900, -900], dtype=int32)
    with checks(False):
        mask, _ = flashinfer.custom_mask(layout, prefix, 9)
        assert len(mask) == 9
        assert flashinfer.ancestors(mask, wild, wild, prefix * 999, 3).shape == (2, 3, 1)
        table, _ = flashinfer.block_table(wild, wild, wild[1:], 2, 2)
        assert table.tolist()[1] == [0, 0]
        flashinfer.paged_kv(table, wild[1:], 2)


@pytest.mark.gpu
def test_nobody_waits_for_the_gpu() -> None:
    layout = TreeLayout(*(each.cuda() for each in forest((7, 3), 8)))
    prefix, table = lens((5, 9)).cuda(), torch.arange(8, dtype=int32).view(2, 4).cuda()

    def run() -> None:
        mask, indptr = flashinfer.custom_mask(layout, prefix, 200)
        rows = flashinfer.qo_indptr(layout)
        flashinfer.ancestors(mask, indptr, rows, prefix, 8)
        flashinfer.packed_custom_mask(layout, prefix, 200)
        flashinfer.block_table(*flashinfer.paged_kv(table, prefix, 4), 4, 4)

    runs_without_a_sync(run)


@pytest.mark.gpu
def test_against_the_real_package() -> None:
    real = pytest.importorskip("flashinfer", reason="flashinfer is not installed")
    layout, prefix = TreeLayout(*(each.cuda() for each in forest())), lens().cuda()
    mask, indptr = flashinfer.custom_mask(layout, prefix)
    theirs = real.segment_packbits(mask, indptr, bitorder="little")
    for mine, other in zip(flashinfer.packed_custom_mask(layout, prefix), theirs, strict=True):
        assert torch.equal(mine, other)
