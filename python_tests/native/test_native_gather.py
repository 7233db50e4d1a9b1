"""The native gathering and commit ops, called directly, against rows moved one by one in Python."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from emulation import Library
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from tree_oracle import int32, lay_out, tree_batches, walk

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
def test_compact_cache(
    library: Library, seed: int, dtype: torch.dtype, slots_come_first: bool
) -> None:
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
    library.ops.compact_cache_(
        tensors[:3], tensors[3:], int32(paths), int32(lengths), int32(prefix_lens)
    )
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))


def test_compaction_of_a_large_cache_goes_through_the_threads(library: Library) -> None:
    keys, values = caches(4, (2, 8, 64, 128)), caches(4, (2, 8, 64, 128))
    expected = [cache.clone() for cache in (*keys, *values)]
    path = list(range(0, 32, 2))
    for cache in expected:
        compacted(cache, path, 15, 10, 0)
        compacted(cache, path, 9, 31, 1)
    library.ops.compact_cache_(keys, values, int32([path] * 2), int32([15, 9]), int32([10, 31]))
    assert all(torch.equal(a, b) for a, b in zip((*keys, *values), expected, strict=True))


@given(st.integers(0, 2**32))
def test_a_path_that_does_not_ascend_is_moved_row_by_row(library: Library, seed: int) -> None:
    """A caller's mistake, which every backend answers alike: later rows see earlier moves."""
    source = random.Random(seed)
    path = [source.randrange(24) for _ in range(source.randint(1, 20))]
    keys, values = caches(1, (1, 2, 30, 8)), caches(1, (1, 2, 30, 8), torch.int64)
    expected = keys[0].clone()
    compacted(expected, path, len(path) - 1, 3, 0)
    length = int32([len(path) - 1])
    library.ops.compact_cache_(keys, [keys[0].clone()], int32([path]), length, int32([3]))
    assert torch.equal(keys[0], expected)
    wide = values[0].clone()
    compacted(wide, path, len(path) - 1, 3, 0)
    library.ops.compact_cache_(values, [values[0].clone()], int32([path]), length, int32([3]))
    assert torch.equal(values[0], wide)


@pytest.mark.parametrize(("offset", "width"), [(0, 16), (1, 16), (2, 16), (4, 16), (0, 13)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.float64])
def test_rows_at_any_alignment(
    library: Library, dtype: torch.dtype, offset: int, width: int
) -> None:
    """Rows that begin `offset` elements into their storage; the rest of it is guard."""
    slabs = [(torch.arange(2 * 9 * 24) % 101).to(dtype).view(1, 2, 9, 24) for _ in range(2)]
    states = (torch.arange(5 * 24) % 97).to(dtype).view(1, 5, 24)[..., offset : offset + width]
    expected = [slab.clone() for slab in slabs]
    for slab in expected:
        compacted(slab[..., offset : offset + width], [0, 2, 4], 2, 1, 0)
    keys, values = ([slab[..., offset : offset + width]] for slab in slabs)
    lens = int32([1])
    hidden = library.ops.commit_path_(
        int32([[0, 2, 4, -1]]), int32([2]), keys, values, [states, states], lens
    )
    assert torch.equal(slabs[0], expected[0]) and torch.equal(slabs[1], expected[1])
    rows = torch.cat([states, states], -1)[:, [0, 2, 4]]
    assert torch.equal(hidden[:, :3], rows) and not hidden[:, 3].any()
    assert lens.tolist() == [4]


def test_more_layers_than_one_launch_takes(library: Library) -> None:
    """Several launches then, of which the last alone advances the prefix."""
    keys, values = caches(200, (2, 1, 6, 4)), caches(200, (2, 1, 6, 4))
    states = [torch.full((2, 4, 3), float(layer)) for layer in range(70)]
    expected = [cache.clone() for cache in (*keys, *values)]
    for cache in expected:
        compacted(cache, [0, 3], 1, 1, 0)
    lens = int32([1, 2])
    hidden = library.ops.commit_path_(
        int32([[0, 3], [-1, -1]]), int32([1, -1]), keys, values, states, lens
    )
    assert all(torch.equal(a, b) for a, b in zip((*keys, *values), expected, strict=True))
    assert hidden[0, 1].tolist() == [float(layer) for layer in range(70) for _ in range(3)]
    assert not hidden[1].any()
    assert lens.tolist() == [3, 2]


def test_commit_of_a_tree_that_shared_memory_does_not_hold(library: Library) -> None:
    slots = 5200
    layout = library.ops.build_tree(int32([[-1] + [0, 1] * (slots // 2)])[:, :slots], None)[:5]
    keys, values = caches(1, (1, 1, slots + 2, 1)), caches(1, (1, 1, slots + 2, 1))
    tokens, lens = torch.zeros(1, slots, dtype=torch.long), int32([1])
    path, *_ = library.ops.commit_tree_(tokens, *layout, tokens, keys, values, [], lens, 4)
    assert path.tolist() == [[0, 1, 2, -1]]
    assert keys[0].flatten().tolist() == values[0].flatten().tolist()
    assert lens.tolist() == [4]


@pytest.mark.parametrize("layers", [0, 2])
def test_commit_with_nothing_to_move_still_advances(library: Library, layers: int) -> None:
    states = [torch.ones(1, 3, 2)] * layers
    layout = library.ops.build_tree(int32([[-1, 0, 0]]), None)[:5]
    tokens, lens = torch.tensor([[4, 5, 6]]), int32([7])
    path, length, emitted, hidden = library.ops.commit_tree_(
        tokens, *layout, torch.tensor([[6, 0, 9]]), [], [], states, lens, 3
    )
    assert (path.tolist(), length.tolist(), emitted.tolist()) == ([[0, 2, -1]], [1], [[6, 9, -1]])
    assert hidden.shape == (1, 3, 2 * layers) and lens.tolist() == [9]


def test_repeated_commits_count_their_blocks_anew(library: Library) -> None:
    """The counter across blocks is zero again after every launch, whatever the batch was."""
    for batch in (1, 5, 2, 300):
        keys = caches(2, (batch, 2, 7, 64))
        lens = int32([1] * batch)
        for step in range(3):
            library.ops.commit_path_(
                int32([[0, 1]] * batch), int32([step - 1] * batch), keys, keys, [], lens
            )
        assert lens.tolist() == [1 + 0 + 1 + 2] * batch


WILD = [2**31 - 1, -(2**31), -2, 12]


@pytest.mark.parametrize("path", [[wild, wild] for wild in WILD] + [[0, 11]])
@pytest.mark.parametrize("accept_length", [2**31 - 1, 1, -(2**31)])
@pytest.mark.parametrize("prefix_len", [*WILD, 8])
def test_wild_values_touch_no_other_row(
    library: Library, path: list[int], accept_length: int, prefix_len: int
) -> None:
    """A slab of guard rows lies before and after the cache's own 12 rows of each head."""
    slab = torch.arange(2 * 20 * 3.0).view(1, 2, 20, 3)
    before = slab.clone()
    cache, lens = slab[:, :, 4:16], int32([prefix_len])
    other = slab.clone()[:, :, 4:16]
    states = [torch.ones(1, 12, 2)]
    hidden = library.ops.commit_path_(
        int32([path]), int32([accept_length]), [cache], [other], states, lens
    )
    assert torch.equal(slab[:, :, :4], before[:, :, :4])
    assert torch.equal(slab[:, :, 16:], before[:, :, 16:])
    assert bool(((hidden == 0) | (hidden == 1)).all())
    committed = min(accept_length, 1) + 1 if accept_length >= 0 else 0
    wanted = min(prefix_len + committed, 12) if committed else prefix_len
    assert lens.tolist() == [wanted]


@given(st.integers(0, 2**32), st.sampled_from([torch.float32, torch.bfloat16]))
def test_gather_hidden(library: Library, seed: int, dtype: torch.dtype) -> None:
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
    assert torch.equal(library.ops.gather_hidden(states, int32(index)), expected)

    guarded = torch.full((batch, 8, layers * width + 2), torch.nan, dtype=dtype)
    library.ops.gather_hidden_out(states, int32(index), guarded[:, 1:7, 1:-1])
    assert torch.equal(guarded[:, 1:7, 1:-1], expected)
    guarded[:, 1:7, 1:-1] = torch.nan
    assert bool(guarded.isnan().all())


@pytest.mark.slow
@given(tree_batches(max_nodes=80), st.integers(0, 2**32))
def test_commit_tree(library: Library, batch: tuple[list[list[int]], list[int]], seed: int) -> None:
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
    layout = library.ops.build_tree(int32(parents), int32(counts))[:5]
    path, length, emitted, hidden = library.ops.commit_tree_(
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


def test_refusals_name_the_argument_and_write_nothing(library: Library) -> None:
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
            library.ops.commit_path_(*arguments)
    assert all(torch.equal(a, b) for a, b in zip((*keys, *values), before, strict=True))
    assert lens.tolist() == [1]
    with pytest.raises(ValueError, match=r"gather_hidden: out must be \[1, 2, 2\]"):
        library.ops.gather_hidden_out(states, path, torch.ones(1, 2, 3))
