"""Every op has a case, and what a case counts is what a count by hand over its tensors gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from bench_cases import CPU
from public_names import NOT_OPS

import sparrow_kernels
from bench import registry
from bench.case import Case, tensors_of
from bench.cases.accept import AcceptTree
from bench.cases.attention import MergeAttention, TreeAttention
from bench.cases.cache import AppendCache, RotateAppend
from bench.cases.commit import CommitTree, CompactCache, GatherHidden
from bench.cases.draft import AnchoredTreeAttention
from bench.cases.pages import AttentionMass, BiasedTreeAttention, PagedTreeAttention
from bench.cases.sampling import AcceptTreeResidual, SampleLogits, TopkLogprobs
from bench.cases.tree import BuildTree, SelectTree
from bench.cases.window import AnchoredWindow
from bench.peers.sdpa import anchored_tree_mask, tree_mask
from bench.selection import Selection
from bench.shapes import MODELS

HEADS, KV_HEADS, D = MODELS["tiny"].heads, MODELS["tiny"].kv_heads, MODELS["tiny"].head_dim


def test_every_public_op_has_a_case() -> None:
    assert set(sparrow_kernels.__all__) - NOT_OPS <= set(registry.kinds())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("size", ["smoke", "quick", "full"])
def test_a_run_of_any_size_has_every_op_and_no_case_twice(size: str, device: str) -> None:
    found = registry.cases(Selection(device, size))
    assert {case.op for case in found} == set(registry.kinds())
    names = [(case.op, case.name, case.dtype) for case in found]
    assert len(set(names)) == len(names)
    for case in found:
        assert case.bytes() > 0


def nbytes(*values: object) -> int:
    return sum(tensor.nbytes for value in values for tensor in tensors_of(value))


def moved(case: Case) -> int:
    """Bytes of all arguments and of the result: what an op that reads and writes once moves."""
    arguments = case.arguments(CPU, 0)
    before = nbytes(arguments)
    return before + nbytes(case.call(arguments))


WHOLE = [
    TopkLogprobs(rows=3, vocab=50, k=4),
    SampleLogits(rows=3, vocab=50),
    SelectTree(pool=20, nodes=8, batch=2),
    BuildTree(nodes=9, batch=2),
    GatherHidden(rows=5, layers=2, hidden=8),
    GatherHidden(torch.bfloat16, rows=5, layers=2, hidden=8),
    MergeAttention(model="tiny", parts=3, nodes=4, batch=2),
]


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: f"{case.op}-{case.dtype}")
def test_bytes_of_an_op_that_uses_all_it_is_given(case: Case) -> None:
    assert case.bytes() == moved(case)


def test_bytes_of_a_walk() -> None:
    case = AcceptTree(nodes=9, batch=2)
    arguments = case.arguments(CPU, 0)
    layout = arguments["layout"]
    links = (layout.first_child, layout.next_sibling)
    read = nbytes(arguments["tokens"], arguments["target_tokens"], *links)
    # Of the layout the walk may also look at one more row of [B, T] int32: parents or depths.
    assert case.bytes() == read + nbytes(layout.parent) + nbytes(case.call(arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_counts_what_a_dense_mask_shows(dtype: torch.dtype) -> None:
    case = TreeAttention(dtype, model="tiny", prefix=37, nodes=6, batch=2)
    arguments = case.arguments(CPU, 0)
    seen = int(tree_mask(arguments, case.prefix).sum()) * HEADS
    assert case.pairs() == case.exps() == seen
    assert case.flops() == 2 * 2 * D * seen  # scores and their sum of values
    query, slots = arguments["query"], case.prefix + case.nodes
    cache = 2 * case.batch * KV_HEADS * slots * D * dtype.itemsize
    given = nbytes(arguments["ancestors"], arguments["prefix_lens"])
    assert case.bytes() == 2 * query.nbytes + cache + given


def test_pages_and_biases_count_the_table_and_the_biases() -> None:
    shape = {"model": "tiny", "prefix": 100, "nodes": 6, "batch": 2}
    plain, paged = TreeAttention(**shape), PagedTreeAttention(**shape, page_size=16)
    arguments, usual = paged.arguments(CPU, 0), plain.arguments(CPU, 0)
    assert paged.bytes() - plain.bytes() == arguments["block_table"].nbytes
    assert torch.equal(paged.call(arguments), plain.call(usual))
    biased = BiasedTreeAttention(**shape)
    read = biased.arguments(CPU, 0)["key_bias"][..., : biased.prefix]
    assert biased.bytes() - plain.bytes() == 4 * read.numel()
    mass = AttentionMass(model="tiny", prefix=100, rows=6, batch=2)
    given = mass.arguments(CPU, 0)
    query, key = given["query"], given["key"]
    assert mass.bytes() == 2 * (query.nbytes + key.nbytes) + 4 * 2 * KV_HEADS * 100 + 4 * 2
    assert mass.pairs() == 2 * HEADS * 6 * 100
    assert mass.call(given).shape == (2, KV_HEADS, 100)


@pytest.mark.parametrize("window", [0, 1, 5, 200])
def test_draft_attention_counts_what_a_dense_mask_shows(window: int) -> None:
    case = AnchoredTreeAttention(model="tiny", visual=60, anchors=10, window=window, nodes=6)
    arguments = case.arguments(CPU, 0)
    mask = anchored_tree_mask(arguments, case.prefix)
    assert case.pairs() == int(mask.sum()) * HEADS
    read = int(mask.any(1).sum())  # slots that some row sees: each is read once
    cache = 2 * KV_HEADS * read * D * 4
    rows = 2 * arguments["query"].nbytes
    assert 0 <= case.bytes() - cache - rows <= nbytes(arguments["ancestors"]) + 4 * (10 + 6 + 4)


@pytest.mark.parametrize("layout", ["scattered", "clustered"])
@pytest.mark.parametrize(("window", "percent"), [(0, 10), (3, 10), (7, 0), (100, 10)])
def test_whole_sequences_count_what_a_dense_mask_shows(
    window: int, percent: int, layout: str
) -> None:
    def case(passes: str) -> AnchoredWindow:
        return AnchoredWindow(
            model="tiny", length=50, window=window, percent=percent, layout=layout, passes=passes
        )

    anchors = case("forward").arguments(CPU, 0)["anchor_mask"][0]
    row, slot = torch.arange(50).unsqueeze(1), torch.arange(50)
    seen = int(((slot <= row) & (anchors | (row - slot < window))).sum()) * HEADS
    assert case("forward").pairs() == seen
    assert case("forward").flops() == 2 * 2 * D * seen
    assert case("both").flops() == 7 * 2 * D * seen
    assert case("forward").exps() == seen


def test_appending_moves_new_rows_and_no_others() -> None:
    case = AppendCache(model="tiny", prefix=20, nodes=3, batch=2)
    arguments = case.arguments(CPU, 0)
    rows = nbytes(arguments["key"], arguments["value"])
    assert case.bytes() == 2 * rows + nbytes(arguments["prefix_lens"])
    rotating = RotateAppend(model="tiny", prefix=20, nodes=3, batch=2)
    arguments = rotating.arguments(CPU, 0)
    more = nbytes(arguments["cos"], arguments["sin"]) + 2 * nbytes(arguments["query"])
    assert rotating.bytes() == case.bytes() + more


def written_rows(case: CompactCache) -> Iterator[int]:
    """How many rows of each cache a compaction changes, K and V of every layer."""
    arguments = case.arguments(CPU, 0)
    caches = arguments["keys"] + arguments["values"]
    before = [cache.clone() for cache in caches]
    case.call(arguments)
    for old, new in zip(before, caches, strict=True):
        yield int((old != new).any(-1).sum())


def test_compaction_moves_the_rows_that_change() -> None:
    case = CompactCache(model="tiny", prefix=8, nodes=12, batch=2)
    changed = sum(written_rows(case)) * D * 4
    path = case.arguments(CPU, 0)["path"]
    beside = nbytes(path) + 2 * 4 * case.batch  # the path, accept_length and prefix_lens
    assert case.bytes() == 2 * changed + beside


def test_a_commit_is_a_walk_a_compaction_and_a_gathering() -> None:
    case = CommitTree(model="tiny", prefix=8, nodes=12, batch=2)
    compaction = CompactCache(model="tiny", prefix=8, nodes=12, batch=2)
    rows = sum(written_rows(compaction)) * D * 4
    arguments = case.arguments(CPU, 0)
    acceptance, hidden = case.call(arguments)
    walk = AcceptTree(nodes=12, batch=2).bytes() - 4 * case.batch  # prefix_lens in its place
    given = 2 * rows + 2 * nbytes(hidden) + walk
    assert abs(case.bytes() - given) <= 8 * case.batch


def test_residual_reads_a_row_of_both_distributions_a_step() -> None:
    case = AcceptTreeResidual(vocab=640, levels=3, refused=2, batch=2)
    arguments = case.arguments(CPU, 0)
    acceptance = case.call(arguments)
    assert acceptance.accept_length.tolist() == [3, 3]  # the coins do what the case says
    visited = acceptance.path >= 0
    steps = int(visited.sum())
    distributions = 2 * steps * case.vocab * 4
    assert distributions <= case.bytes() <= distributions + 100 * case.batch * 10
    node = arguments["layout"].depth.shape[1]
    assert node == 1 + 3 * (2 + 1)
