"""Anchors and a window: the index, and tree_attention with it."""

import pytest
import torch
from attention_oracle import CPU_BACKENDS, Case, tree_bits
from dispatch import compiles_once, opcheck
from hypothesis import given, settings
from hypothesis import strategies as st

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import anchor_index, tree_attention
from sparrow_kernels.ops.attention.ops import ANCHOR_INDEX
from sparrow_kernels.ops.types import AnchorIndex
from sparrow_kernels.testing import poison

BUSHY = [-1, 0, 0, 1, 1, 2, 3, 3, 4, 6, 9]
DEPTH = [0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5]
TEXT = set(range(5)) | set(range(30, 36))


def anchored(anchors=TEXT, window=6, length=40, **more) -> Case:
    return Case(
        [tree_bits(BUSHY)], [length], anchors=[anchors], window=window, depth=[DEPTH], **more
    )


CASES = {
    "text around a clip": anchored(),
    "no visual span": anchored(set(range(40))),
    "no anchors": anchored(set()),
    "nothing but the tree": anchored(set(), 0),
    "window 0": anchored(window=0),
    "window 1": anchored(window=1),
    "window ends inside the tree's depth": anchored(set(), 4),
    "window larger than the prefix": anchored(window=200),
    "anchors inside the window and its edge": anchored({1, 34, 35, 36, 37, 38, 39}, 5),
    "future anchors": anchored(TEXT | {40, 41, 63}),
    "empty prefix": anchored(length=0),
    "left padding": anchored(starts=[3]),
    "left padding past the window": anchored(starts=[38]),
    "one level": Case([[0b1, 0b10, 0b100]], [40], anchors=[TEXT], window=9, depth=[[0, 0, 0]]),
    "a level that leaves gaps": Case(
        [[0b10001, 0b10, 0b100000]], [40], anchors=[TEXT], window=9, depth=[[2, 1, 2]]
    ),
    "rows that see alike": Case([[0b1, 0b1]], [40], anchors=[TEXT], window=9, depth=[[0, 0]]),
    "padding rows": Case([[0b1, 0]], [40], anchors=[TEXT], window=9, depth=[[0, -1]]),
    "rows that see nothing": Case([[0, 0b1]], [40], anchors=[set()], window=2, depth=[[3, 3]]),
    "deep rows, long done with the window": Case(
        [[0, 0]], [9], anchors=[set()], window=3, depth=[[50, 60]]
    ),
    "ragged": Case(
        [tree_bits([-1, 0, 1]), [0, 0, 0]],
        [40, 7],
        anchors=[TEXT, set()],
        window=4,
        depth=[[0, 1, 2], [-1, -1, -1]],
    ),
    "bfloat16": anchored(dtype=torch.bfloat16),
    "float64": anchored(dtype=torch.float64),
    "many blocks": anchored(set(range(0, 2000, 7)), 300, 2500, capacity=2600, heads=1, kv_heads=1),
}


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_matches_the_definition(name, backend):
    with env.backend(backend):
        CASES[name].check()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_what_no_row_sees_is_not_read(name, backend):
    with env.backend(backend):
        clean = CASES[name].run()
        poisoned = CASES[name].poisoned().run()
    assert torch.equal(clean[0], poisoned[0]) and torch.equal(clean[1], poisoned[1])


def listed(row: list[bool], listed_slots: int) -> tuple[list[int], int, list[int]]:
    """The index of one request, from the definition."""
    slots = [slot for slot, anchor in enumerate(row) if anchor][:listed_slots]
    rank = [sum(slot < s for slot in slots) for s in range(len(row) + 1)]
    return slots + [len(row)] * (listed_slots - len(slots)), len(slots), rank


@given(
    rows=st.integers(0, 12).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=4)
    ),
    max_anchors=st.none() | st.integers(0, 14),
)
@settings(max_examples=100, deadline=None)
def test_index_is_the_definition(rows, max_anchors):
    mask = torch.tensor(rows, dtype=torch.bool).view(len(rows), -1)
    with env.checks(False):
        index = anchor_index(mask, max_anchors)
    listed_slots = mask.shape[1] if max_anchors is None else max_anchors
    for b, row in enumerate(rows):
        slots, count, rank = listed(row, listed_slots)
        assert index.slots[b].tolist() == slots
        assert index.count[b].item() == count
        assert index.rank[b].tolist() == rank
    assert {tensor.dtype for tensor in index} == {torch.int32}


def test_index_of_nothing():
    index = anchor_index(torch.zeros(0, 5, dtype=torch.bool))
    assert [list(tensor.shape) for tensor in index] == [[0, 5], [0], [0, 6]]


def test_index_refuses_by_name():
    mask = torch.tensor([[True, False], [True, True]])
    with pytest.raises(ValueError, match="max_anchors must be at least 2, .* got 1"):
        anchor_index(mask, 1)
    with pytest.raises(ValueError, match="max_anchors must be at least 0"):
        anchor_index(mask, -1)
    with pytest.raises(TypeError, match="anchor_mask must be bool"):
        anchor_index(mask.int())
    with pytest.raises(ValueError, match=r"anchor_mask must be \[B, N\]"):
        anchor_index(mask[0])


def test_index_of_a_strided_mask():
    mask = torch.rand(3, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    for ours, theirs in zip(anchor_index(mask.T.contiguous().T), anchor_index(mask), strict=True):
        assert torch.equal(ours, theirs)


def test_index_is_an_op():
    opcheck(ANCHOR_INDEX, "reference", torch.rand(2, 9) < 0.5, 9)

    def calls(slots):
        return lambda: (torch.ones(2, slots, dtype=torch.bool), slots + 3)

    compiles_once(lambda mask, most: tuple(anchor_index(mask, most)), [calls(5), calls(8)])


def test_a_truncated_index_means_its_first_anchors():
    case = anchored({1, 4, 20, 33, 38}, 2)
    mask = torch.zeros(1, 64, dtype=torch.bool)
    mask[0, [1, 4, 20, 33, 38]] = True
    with env.checks(False):
        index = anchor_index(mask, 3)
    options = case.options() | {"anchors": index}
    wanted = anchored({1, 4, 20}, 2)
    for backend in CPU_BACKENDS:
        with env.backend(backend):
            wanted.check(tree_attention(*case.arguments(), **options, return_lse=True))


MALFORMED = {
    "a slot past the cache": ("slots", lambda t: t.fill_(10**6)),
    "a negative slot": ("slots", lambda t: t.neg_()),
    "slots that descend": ("slots", lambda t: t.copy_(t.flip(1))),
    "more anchors than listed": ("count", lambda t: t.fill_(2**31 - 1)),
    "a negative count": ("count", lambda t: t.fill_(-3)),
    "a rank of noise": ("rank", lambda t: t.copy_(torch.randint_like(t, -(2**31), 2**31 - 1))),
    "a poisoned rank": ("rank", lambda t: t.copy_(poison(*t.shape, dtype=torch.int32))),
}


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_index(name, backend):
    """Refused by name when checked; else some anchors, but nothing outside the cache is read."""
    case = anchored()
    # The cache is one slab's middle: a read outside it would find NaN.
    slab = torch.full((2, 1, 2, 192, 16), float("nan"))
    case.key = slab[0, :, :, 64:128].copy_(case.key)
    case.value = slab[1, :, :, 64:128].copy_(case.value)
    good = case.index()
    field, spoil = MALFORMED[name]
    bad = AnchorIndex(*(tensor.clone() for tensor in good))
    spoil(getattr(bad, field))
    options = case.options() | {"anchors": bad}
    with env.backend(backend):
        with pytest.raises(ValueError, match=f"tree_attention: anchors.{field}"):
            tree_attention(*case.arguments(), **options)
        with env.checks(False):
            assert bool(tree_attention(*case.arguments(), **options).isfinite().all())


def test_anchoring_is_refused_by_name():
    case = anchored()
    options = case.options()
    with pytest.raises(ValueError, match="together or not at all, got anchors and depth"):
        tree_attention(*case.arguments(), **(options | {"window": None}))
    with pytest.raises(ValueError, match="window must be at least 0, got -1"):
        tree_attention(*case.arguments(), **(options | {"window": -1}))
    with pytest.raises(TypeError, match="anchors must be an AnchorIndex"):
        tree_attention(*case.arguments(), **(options | {"anchors": tuple(options["anchors"])}))
    with pytest.raises(TypeError, match="depth must be int32"):
        tree_attention(*case.arguments(), **(options | {"depth": options["depth"].long()}))
    short = AnchorIndex(*(tensor[..., :-1] for tensor in options["anchors"][:2]), torch.zeros(1))
    with pytest.raises((TypeError, ValueError), match="tree_attention: anchors"):
        tree_attention(*case.arguments(), **(options | {"anchors": short}))
