"""The native gathering and commit ops, called directly, against rows moved one by one in Python."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from tree_oracle import int32, lay_out, tree_batches, walk

OPS = torch.ops.sparrow_native
DTYPES = [torch.int8, torch.float16, torch.float32, torch.float64]


def caches(count: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Every element its own number, as far as the dtype can tell them apart."""
    size = torch.Size(shape).numel()
    return [(torch.arange(size).view(*shape) + 7 * layer).to(dtype) for layer in range(count)]


def compacted(cache: Tensor, path: list[int], accept_length: int, prefix_len: int, b: int) -> None:
    """The definition, for one request: rows move one by one, ascending."""
    for k in range(accept_length + 1):
        cache[b, :, prefix_len + k] = cache[b, :, prefix_len + path[k]].clone()


def draw_path(source: random.Random, slots: int, max_path: int) -> tuple[list[int], int]:
    accept_length = source.randint(-1, min(max_path, slots) - 1)
    nodes = sorted(source.sample(range(1, slots), accept_length)) if accept_length > 0 else []
    path = [0, *nodes] if accept_length >= 0 else []
    return path + [-1] * (max_path - len(path)), accept_length


@given(st.integers(0, 2**32), st.sampled_from(DTYPES), st.booleans())
def test_compact_cache(seed: int, dtype: torch.dtype, slots_come_first: bool) -> None:
    source = random.Random(seed)
    batch, heads, slots, max_path, head_dim = 3, 2, 9, source.randint(1, 6), source.randint(1, 5)
    capacity = slots + 6
    paths, lengths = zip(*(draw_path(source, slots, max_path) for _ in range(batch)), strict=True)
    prefix_lens = [source.randint(0, capacity - slots) for _ in range(batch)]
    shape = (
        (batch, capacity, heads, head_dim)
        if slots_come_first
        else (batch, heads, capacity, head_dim)
    )
    tensors = caches(6, shape, dtype)
    if slots_come_first:
        tensors = [tensor.transpose(1, 2) for tensor in tensors]
    expected = [tensor.clone() for tensor in tensors]
    for cache in expected:
        for b in range(batch):
            compacted(cache, paths[b], lengths[b], prefix_lens[b], b)
    OPS.compact_cache_(tensors[:3], tensors[3:], int32(paths), int32(lengths), int32(prefix_lens))
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))


def test_compaction_of_a_large_cache_goes_through_the_threads() -> None:
    keys, values = caches(4, (2, 8, 64, 128)), caches(4, (2, 8, 64, 128))
    expected = [cache.clone() for cache in (*keys, *values)]
    path = list(range(0, 32, 2))
    for cache in expected:
        compacted(cache, path, 15, 10, 0)
        compacted(cache, path, 9, 31, 1)
    OPS.compact_cache_(keys, values, int32([path] * 2), int32([15, 9]), int32([10, 31]))
    assert all(torch.equal(a, b) for a, b in zip((*keys, *values), expected, strict=True))


WILD = [2**31 - 1, -(2**31), -2, 12]


@pytest.mark.parametrize("path", [[wild, wild] for wild in WILD] + [[0, 11]])
@pytest.mark.parametrize("accept_length", [2**31 - 1, 1, -(2**31)])
@pytest.mark.parametrize("prefix_len", [*WILD, 8])
def test_wild_values_touch_no_other_row(
    path: list[int], accept_length: int, prefix_len: int
) -> None:
    """A slab of guard rows lies before and after the cache's own 12 rows of each head."""
    slab = torch.arange(2 * 20 * 3.0).view(1, 2, 20, 3)
    before = slab.clone()
    cache, lens = slab[:, :, 4:16], int32([prefix_len])
    other = slab.clone()[:, :, 4:16]
    states = [torch.ones(1, 12, 2)]
    hidden = OPS.commit_path_(int32([path]), int32([accept_length]), [cache], [other], states, lens)
    assert torch.equal(slab[:, :, :4], before[:, :, :4])
    assert torch.equal(slab[:, :, 16:], before[:, :, 16:])
    assert bool(((hidden == 0) | (hidden == 1)).all())
    committed = min(accept_length, 1) + 1 if accept_length >= 0 else 0
    wanted = min(prefix_len + committed, 12) if committed else prefix_len
    assert lens.tolist() == [wanted]


@given(st.integers(0, 2**32), st.sampled_from([torch.float32, torch.bfloat16]))
def test_gather_hidden(seed: int, dtype: torch.dtype) -> None:
    source = random.Random(seed)
    batch, num_rows, width, layers = 2, source.randint(1, 5), source.randint(1, 4), 3
    states = [
        torch.randn(batch, num_rows, 2 * width).to(dtype)[:, :, :width] for _ in range(layers)
    ]
    choices = [-1, num_rows, 2**31 - 1, -(2**31), *range(num_rows)]
    index = [[source.choice(choices) for _ in range(6)] for _ in range(batch)]
    expected = torch.zeros(batch, 6, layers * width, dtype=dtype)
    for b in range(batch):
        for a, row in enumerate(index[b]):
            if 0 <= row < num_rows:
                expected[b, a] = torch.cat([state[b, row] for state in states])
    assert torch.equal(OPS.gather_hidden(states, int32(index)), expected)

    guarded = torch.full((batch, 8, layers * width + 2), torch.nan, dtype=dtype)
    OPS.gather_hidden_out(states, int32(index), guarded[:, 1:7, 1:-1])
    assert torch.equal(guarded[:, 1:7, 1:-1], expected)
    guarded[:, 1:7, 1:-1] = torch.nan
    assert bool(guarded.isnan().all())


@given(tree_batches(max_nodes=80), st.integers(0, 2**32))
def test_commit_tree(batch: tuple[list[list[int]], list[int]], seed: int) -> None:
    """One call does what the walk, the compaction, the gathering and the advance do one by one."""
    parents, counts = batch
    source = random.Random(seed)
    slots, requests = len(parents[0]), len(parents)
    max_path, capacity = source.randint(1, 6), slots + 5
    tokens = [[source.randrange(2) for _ in range(slots)] for _ in parents]
    target = [[source.randrange(2) for _ in range(slots)] for _ in parents]
    before = [source.randint(0, 5) for _ in parents]
    keys, values = caches(2, (requests, 2, capacity, 3)), caches(2, (requests, 2, capacity, 3))
    states = [torch.randn(requests, slots, 4) for _ in range(3)]
    expected = [cache.clone() for cache in (*keys, *values)]
    wanted_hidden = torch.zeros(requests, max_path, 12)
    wanted = []
    for b in range(requests):
        path, length, emitted = walk(lay_out(parents[b], counts[b]), tokens[b], target[b], max_path)
        wanted.append((path, length, emitted))
        for cache in expected:
            compacted(cache, path, length, before[b], b)
        for k in range(length + 1):
            wanted_hidden[b, k] = torch.cat([state[b, path[k]] for state in states])

    prefix_lens = int32(before)
    layout = OPS.build_tree(int32(parents), int32(counts))[:5]
    path, length, emitted, hidden = OPS.commit_tree_(
        torch.tensor(tokens),
        *layout,
        torch.tensor(target),
        keys,
        values,
        states,
        prefix_lens,
        max_path,
    )
    assert list(zip(path.tolist(), length.tolist(), emitted.tolist(), strict=True)) == wanted
    assert all(torch.equal(a, b) for a, b in zip((*keys, *values), expected, strict=True))
    assert torch.equal(hidden, wanted_hidden)
    assert prefix_lens.tolist() == [n + w[1] + 1 for n, w in zip(before, wanted, strict=True)]


def test_refusals_name_the_argument_and_write_nothing() -> None:
    keys, values = caches(2, (1, 2, 6, 3)), caches(2, (1, 2, 6, 3))
    states, path = [torch.ones(1, 4, 2)], int32([[0, 2]])
    length, lens = int32([1]), int32([1])
    half = [values[0], values[1].half()]
    turned = [keys[0], keys[0].transpose(1, 2).contiguous().transpose(1, 2)]
    cases = [
        ((path.long(), length, keys, values, states, lens), "path must be Int, got Long"),
        ((path, length[:0], keys, values, states, lens), r"accept_length must be \[1\], got \[0\]"),
        ((path, length, keys, values[:1], states, lens), "values must be as many tensors as keys"),
        ((path, length, keys, half, states, lens), "values must be Float, got Half"),
        ((path, length, turned, values, states, lens), "keys must be of the strides"),
        ((path, length, [k[:, :, :5] for k in keys], values, states, lens), "values must be"),
        ((path, length, keys, values, [states[0][0]], lens), "states must be"),
        ((path, length, keys, values, [*states, torch.ones(1, 4, 3)], lens), "states must be"),
        ((path, length, keys, values, states, lens.long()), "prefix_lens must be Int, got Long"),
    ]
    before = [cache.clone() for cache in (*keys, *values)]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=f"commit_path_: {message}"):
            OPS.commit_path_(*arguments)
    assert all(torch.equal(a, b) for a, b in zip((*keys, *values), before, strict=True))
    assert lens.tolist() == [1]
    with pytest.raises(ValueError, match=r"gather_hidden: out must be \[1, 2, 2\]"):
        OPS.gather_hidden_out(states, path, torch.ones(1, 2, 3))
