"""tree_attention on caches in pages: the bits of a cache of one piece, on all backends of a CPU."""

from dataclasses import replace

import pytest
import torch
from attention_oracle import CPU_BACKENDS, Case, tree_bits
from dispatch import compiles_once, opcheck
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_cases import LAYOUTS, Pages, sharing
from test_attention_anchors import CASES as ANCHORED_CASES
from test_attention_dispatch import op_arguments
from test_attention_tree import BUSHY, CASES, drawn_cases

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import tree_attention
from sparrow_kernels.ops.attention.ops import TREE_ATTENTION, TREE_ATTENTION_OUT

PAGE_SIZES = (1, 16, 64, 256)
LONG = Case([tree_bits(BUSHY)] * 3, [700, 530, 301], capacity=777, starts=[0, 17, 300])


def agree(case: Case, pages: Pages, **more: object) -> None:
    for paged, whole in zip(pages.run(**more), case.run(**more), strict=True):
        assert torch.equal(paged, whole)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_the_bits_of_a_cache_of_one_piece(backend):
    """Of every case of the definition, with NaN in all that is not a request's own."""
    every = [case for case in (CASES | ANCHORED_CASES).values() if case.rows]
    with env.backend(backend):
        for number, case in enumerate(every):
            agree(case, Pages(case, PAGE_SIZES[number % 3], LAYOUTS[number % 3], seed=number))
        for page_size in PAGE_SIZES:
            shared = 512 // page_size
            case = sharing(replace(LONG, prefix_lens=[700, 530, 512]), shared * page_size)
            agree(case, Pages(case, page_size, LAYOUTS[page_size % 3], shared))
            agree(LONG, Pages(LONG, page_size), num_splits=3)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@given(
    case=drawn_cases(),
    page_size=st.sampled_from([1, 3, 16, 64]),
    layout=st.sampled_from(LAYOUTS),
    pages_shared=st.integers(0, 4),
)
@settings(max_examples=100, deadline=None)
def test_drawn_cases(backend, case, page_size, layout, pages_shared):
    shared = min(pages_shared, min(case.prefix_lens) // page_size)
    case = sharing(replace(case, starts=None), shared * page_size)
    with env.backend(backend):
        agree(case, Pages(case, page_size, layout, shared, case.seed))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_table_that_does_not_fit(backend):
    case = CASES["chain"]  # 41 committed slots and 6 of a tree: three pages of 16
    pages = Pages(case, 16)
    wrong = {
        "block_table must be a page in 0..6 .*= 7": (0, 0, 7),
        r"block_table\[0\]\[2\] = -1": (0, 2, -1),
    }
    with env.backend(backend):
        for message, (b, place, page) in wrong.items():
            usual = int(pages.table[b, place])
            pages.table[b, place] = page
            with pytest.raises(ValueError, match=message):
                pages.run()
            pages.table[b, place] = usual
        pages.table = pages.table[:, :2]
        with pytest.raises(ValueError, match="block_table must be .* with slot 46 of request 0"):
            pages.run()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_unchecked_pages_are_bounded(backend):
    """Some page is read in place of one that does not exist, and nothing outside of the cache."""
    case = CASES["chain"]
    slab = torch.full((2, 12, 2, 16, 16), float("nan"))
    slab[:, 4:8] = torch.randn(2, 4, 2, 16, 16)
    arguments = (case.query, slab[0, 4:8], slab[1, 4:8], *case.arguments()[3:])
    with env.backend(backend), env.checks(False):
        for page in (-1, 4, 2**31 - 1, -(2**31)):
            table = torch.tensor([[0, page, 3, page]], dtype=torch.int32)
            out = tree_attention(*arguments, block_table=table)
            assert bool(out.isfinite().all())
            # A table too short cuts the prefix off, and the tree with it.
            short = tree_attention(*arguments, block_table=table[:, :1])
            assert bool(short.isfinite().all())
        nothing = slab[:, :0]
        out, lse = tree_attention(
            case.query, *nothing, *case.arguments()[3:], block_table=table, return_lse=True
        )
        assert out.abs().max() == 0 and bool(lse.isneginf().all())


def test_bad_tables_are_named():
    case = CASES["chain"]
    pages = Pages(case, 16)
    query, _, _, words, lens = case.arguments()

    def attend(table, key=pages.key, value=pages.value):
        return tree_attention(query, key, value, words, lens, block_table=table)

    with pytest.raises(ValueError, match=r"block_table must be \[B, pages\] = \[1, pages\]"):
        attend(pages.table.expand(2, -1))
    with pytest.raises(TypeError, match="block_table must be int32, got int64"):
        attend(pages.table.long())
    with pytest.raises(ValueError, match=r"value must be \[pages, Hkv, page_size, D\]"):
        attend(pages.table, value=pages.value[:1])
    with pytest.raises(ValueError, match="key must be contiguous in its last dim"):
        attend(pages.table, key=pages.key.mT.contiguous().mT)


@pytest.mark.slow
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_opcheck_and_one_graph(backend):
    case = Case([tree_bits(BUSHY)] * 2, [33, 5], starts=[0, 2])
    pages = Pages(case, 16)
    arguments = op_arguments(case)
    arguments[1:3] = pages.key, pages.value
    bias = torch.randn(1, 2, pages.slots)
    opcheck(TREE_ATTENTION, backend, *arguments, pages.table, bias)
    out, lse = torch.empty_like(case.query), torch.empty(case.query.shape[:3])
    opcheck(TREE_ATTENTION_OUT, backend, *arguments, out, lse, pages.table, bias)

    def calls(size, length, page_size):
        def make():
            case = Case([tree_bits(BUSHY[:size])], [length])
            pages = Pages(case, page_size)
            query, _, _, words, lens = case.arguments()
            bias = torch.arange(2.0 * pages.slots).sin().view(1, 2, -1)
            key, value = pages.key.nan_to_num(), pages.value.nan_to_num()
            return query, key, value, words, lens, pages.table, bias

        return make

    def attend(query, key, value, words, lens, table, bias):
        return tree_attention(
            query, key, value, words, lens, return_lse=True, block_table=table, key_bias=bias
        )

    with env.backend(backend):
        compiles_once(attend, [calls(5, 20, 6), calls(7, 9, 4), calls(11, 33, 8)])
