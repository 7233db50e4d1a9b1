"""vLLM's caches, slots, drafts and sampled tokens, and ours."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from sglang_cases import runs_without_a_sync
from torch import Tensor
from tree_cases import random_tree

from sparrow_kernels import (
    Acceptance,
    accept_tree,
    append_cache_,
    build_tree,
    checks,
    tree_attention,
    unpack_ancestors,
)
from sparrow_kernels.integrations import vllm

int32 = torch.int32


def ints(values: object) -> Tensor:
    return torch.tensor(values, dtype=int32)


def test_the_docstring_runs() -> None:
    names = {"torch": torch, "Acceptance": Acceptance}
    assert doctest.testmod(vllm, extraglobs=names) == (0, 1)


# vLLM's own tests of its rejection sampler, greedy: what was drafted, what the target says at each
# place and behind, and what comes out.
DOCUMENTED = [
    ([[1, 2, 3]], [[1, 2, 3, 4]], [[1, 2, 3, 4]]),
    ([[1, 2, 3]], [[1, 5, 3, 4]], [[1, 5, -1, -1]]),
    ([[1, 2], [3]], [[1, 2, 5], [3, 4]], [[1, 2, 5], [3, 4, -1]]),
    ([[1]], [[1, 2]], [[1, 2]]),
    ([[]], [[5]], [[5]]),
    ([[1, 2, 3], [4, 5, 6]], [[1, 2, 7, 6], [4, 8, 6, 9]], [[1, 2, 7, -1], [4, 8, -1, -1]]),
    ([[1]], [[2, 3]], [[2, -1]]),
    ([[1, 2], [3, 4]], [[1, 5, 6], [3, 4, 7]], [[1, 5, -1], [3, 4, 7]]),
]


def flat(lists: list[list[int]]) -> tuple[Tensor, Tensor]:
    """As `SpecDecodeMetadata` has them: one request behind the other, and where each ends."""
    ends = torch.tensor([len(each) for each in lists]).cumsum(0).int()
    return ints(sum(lists, [])), ends


@pytest.mark.parametrize(("drafted", "says", "expected"), DOCUMENTED)
def test_the_documented_rejections(drafted: list, says: list, expected: list) -> None:
    longest = max(map(len, drafted))
    ids, ends = flat(drafted)
    tokens, layout = vllm.chains(ids, ends, ints([99] * len(drafted)), longest)
    bonus = ints([[row[-1]] for row in says])
    targets = vllm.chain_targets(flat([row[:-1] for row in says])[0], ends, bonus, longest)
    accepted = accept_tree(tokens, layout, targets, longest + 1)
    sampled = vllm.sampled_token_ids(accepted, longest)
    assert (sampled.tolist(), sampled.dtype) == (expected, int32)
    # And back, as a sampler of theirs would hand it over.
    for mine, other in zip(accepted, vllm.acceptance(sampled), strict=True):
        assert torch.equal(mine, other) and mine.dtype == other.dtype


def test_chains_as_trees() -> None:
    ids, ends = flat([[7, 8], [], [9]])
    tokens, layout = vllm.chains(ids, ends, ints([1, 2, 3]), 2)
    assert tokens.tolist() == [[1, 7, 8], [2, -1, -1], [3, 9, -1]]
    assert layout.depth.tolist() == [[0, 1, 2], [0, -1, -1], [0, 1, -1]]
    assert layout.ancestors[..., 0].tolist() == [[1, 3, 7], [1, 0, 0], [1, 3, 0]]
    says = vllm.chain_targets(ints([70, 80, 90]), ends, ints([5, 6, 4]), 2)
    assert says.tolist() == [[70, 80, 5], [6, -1, -1], [90, 4, -1]]


def test_an_idle_request_has_no_token() -> None:
    idle = vllm.acceptance(ints([[-1, -1], [4, -1]]))
    assert idle.accept_length.tolist() == [-1, 0] and idle.path.tolist() == [[-1, -1], [0, -1]]
    assert vllm.sampled_token_ids(idle, 3).tolist() == [[-1] * 4, [4, -1, -1, -1]]


def test_slots_by_hand() -> None:
    """Blocks of 4; request 0 has 3 slots in blocks 7 and 2, request 1 has 8 in 5, 0 and 3."""
    table = ints([[7, 2, 0], [5, 0, 3]])
    slots = vllm.slot_mapping(table, ints([0, 3, 5]), ints([3, 8]), 4, 7)
    assert slots.tolist() == [31, 8, 9, 12, 13, -1, -1] and slots.dtype == torch.int64
    # A request without rows is passed over.
    assert vllm.slot_mapping(table, ints([0, 0, 1]), ints([3, 7]), 4, 1).tolist() == [3]


def test_blocks_of_the_manager() -> None:
    """The example that `map_to_kernel_blocks` had: blocks of 32 slots, pages of 16."""
    table = ints([[0, 1, 2]])
    assert vllm.kernel_blocks(table, 2).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert vllm.kernel_blocks(table, 1) is table
    assert vllm.kernel_blocks(ints([[3], [1]]), 3).tolist() == [[9, 10, 11], [3, 4, 5]]


def layer(form: str, blocks: int, block_size: int, heads: int, head_dim: int) -> Tensor:
    """One layer's cache in memory as vLLM lays it out: slots before heads."""
    if form == "stacked":
        return torch.randn(2, blocks, block_size, heads, head_dim)
    if form == "paired":
        return torch.randn(blocks, 2, block_size, heads, head_dim)
    return torch.randn(blocks, block_size, heads, 2 * head_dim).transpose(1, 2)


def theirs(cache: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """Key and value as their backends take them apart: `[blocks, block_size, Hkv, D]`."""
    if form == "packed":
        key, value = cache.transpose(1, 2).split(cache.shape[-1] // 2, dim=-1)
    else:
        key, value = cache.unbind(0 if form == "stacked" else 1)
    return key, value


@pytest.mark.parametrize("form", vllm.FORMS)
def test_a_step_over_their_cache(form: str) -> None:
    """Rows written by their slots, attention by a dense oracle that reads their layout, and the
    same by our ops through the views."""
    blocks, size, heads, head_dim = 11, 16, 2, 8
    cache = layer(form, blocks, size, heads, head_dim)
    mine = cache.clone()
    key, value = theirs(cache, form)
    table = ints([[4, 9, 1], [0, 7, 10]])
    prefix, nodes = ints([13, 30]), 7
    rows = torch.randn(2, 2, heads, nodes, head_dim)
    start = torch.arange(3, dtype=int32) * nodes
    slots = vllm.slot_mapping(table, start, prefix, size, 2 * nodes)
    for side, cached in zip(rows, (key, value), strict=True):
        flat_rows = side.transpose(1, 2).flatten(0, 1)
        for slot, row in zip(slots.tolist(), flat_rows, strict=True):
            cached[slot // size, slot % size] = row

    pages = vllm.caches(mine, form)
    append_cache_(*rows, *pages, prefix, block_table=table)
    assert torch.equal(mine, cache), "the views write where their slots say"

    trees = [random_tree(nodes, 0), random_tree(nodes, 1)]
    layout = build_tree(ints(trees))
    query = torch.randn(2, 4, nodes, head_dim)
    out = tree_attention(query, *pages, layout.ancestors, prefix, block_table=table)
    sees = unpack_ancestors(layout.ancestors, nodes)
    for b in range(2):
        held = [each[table[b].long()].flatten(0, 1) for each in (key, value)]  # [slots, Hkv, D]
        for i in range(nodes):
            own = (int(prefix[b]) + sees[b, i].nonzero()[:, 0]).tolist()
            seen = [*range(int(prefix[b])), *own]
            keys, values = (each[seen].repeat_interleave(2, 1) for each in held)
            scores = torch.einsum("hd,shd->hs", query[b, :, i], keys) / math.sqrt(head_dim)
            expected = torch.einsum("hs,shd->hd", scores.softmax(-1), values)
            torch.testing.assert_close(out[b, :, i], expected)


def test_refusals() -> None:
    table, start, prefix = ints([[0, 1]]), ints([0, 2]), ints([3])
    ids, ends = flat([[7, 8], [9]])
    two = Acceptance(ints([[0, 1]]), ints([1]), torch.tensor([[5, 6]]))
    cache = torch.zeros(2, 5, 16, 3, 8)
    slots, chains, targets = vllm.slot_mapping, vllm.chains, vllm.chain_targets
    cases = [
        (lambda: vllm.caches(cache, "flat"), ValueError, "stacked or paired or packed, got flat"),
        (lambda: vllm.caches(cache, "paired"), ValueError, r"\[blocks, 2,"),
        (lambda: vllm.caches(cache, "packed"), ValueError, "packed"),
        (lambda: vllm.kernel_blocks(table.long(), 2), TypeError, "int64"),
        (lambda: vllm.kernel_blocks(table, 0), ValueError, "at least 1"),
        (lambda: slots(table, start, prefix, 2, 2), ValueError, r"prefix_lens\[0\] = 3"),
        (lambda: slots(table, start, prefix.long(), 4, 2), TypeError, "int64"),
        (lambda: slots(table, start[:1], prefix, 4, 2), ValueError, r"must be \[2\], got \[1\]"),
        (lambda: chains(ids, ends, ints([1, 2]), 1), ValueError, "max_spec_len = 1"),
        (lambda: chains(ids[:2], ends, ints([1, 2]), 2), ValueError, "up to 2"),
        (lambda: chains(ids, ends.flip(0), ints([1, 2]), 3), ValueError, "ascending"),
        (lambda: chains(ids, ends, ints([1]), 2), ValueError, "last_tokens"),
        (lambda: targets(ids, ends, ints([[1, 2]]), 2), ValueError, r"\[2\] or \[2, 1\]"),
        (lambda: targets(ids.float(), ends, ints([1, 2]), 2), TypeError, "float32"),
        (lambda: vllm.sampled_token_ids(two, 0), ValueError, "at least 1"),
        (lambda: vllm.acceptance(ints([[4, -1, 5]])), ValueError, "-1 behind a -1"),
        (lambda: vllm.acceptance(ints([4])), ValueError, r"\[any, any\]"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()


def test_unchecked_values_read_nothing_outside() -> None:
    wild = ints([900, -900])
    with checks(False):
        slots = vllm.slot_mapping(ints([[0, 1], [2, 3]]), ints([0, 2, 3]), wild, 4, 3)
        assert slots.tolist() == [-1, -1, -1]
        tokens, _ = vllm.chains(ints([7]), wild, ints([1, 2]), 2)
        assert tokens[:, 0].tolist() == [1, 2]
        vllm.chain_targets(ints([7]), wild, ints([1, 2]), 2)
        assert vllm.acceptance(ints([[4, -1, 5]])).tokens.tolist() == [[4, -1, -1]]


@pytest.mark.gpu
def test_nobody_waits_for_the_gpu() -> None:
    ids, ends, root = (each.cuda() for each in (*flat([[7, 8], [9]]), ints([1, 2])))
    table, start = ints([[0, 1], [2, 3]]).cuda(), ints([0, 3, 5]).cuda()

    def run() -> None:
        tokens, layout = vllm.chains(ids, ends, root, 2)
        targets = vllm.chain_targets(ids, ends, root, 2)
        accepted = accept_tree(tokens, layout, targets, 3)
        vllm.acceptance(vllm.sampled_token_ids(accepted, 2))
        vllm.slot_mapping(vllm.kernel_blocks(table, 2), start, root, 16, 8)

    runs_without_a_sync(run)


def test_against_the_real_package() -> None:
    pytest.importorskip("vllm", reason="vllm is not installed")
    from vllm.v1.sample.rejection_sampler import RejectionSampler
    from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

    drafted = [[1, 2], [], [3]]
    theirs = SpecDecodeMetadata.make_dummy(drafted, torch.device("cpu"))
    ids, ends = theirs.draft_token_ids, theirs.cu_num_draft_tokens
    tokens, layout = vllm.chains(ids, ends, ints([9, 9, 9]), theirs.max_spec_len)
    assert tokens.tolist() == [[9, 1, 2], [9, -1, -1], [9, 3, -1]]
    targets = vllm.chain_targets(ints([1, 5, 3]), ends, ints([6, 7, 8]), 2)
    sampled = vllm.sampled_token_ids(accept_tree(tokens, layout, targets, 3), 2)
    parsed = RejectionSampler.parse_output(sampled, 100)
    assert (parsed[0] if isinstance(parsed, tuple) else parsed) == [[1, 5], [7], [3, 8]]
