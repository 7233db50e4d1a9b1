"""`commit_path_` and `commit_tree_`: rows moved, hidden rows gathered, prefixes advanced."""

from __future__ import annotations

import pytest
import torch
from cache_cases import STORAGES, Committed, GuardedCaches, commits
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import children, each_backend, forests, padded, random_tree

from sparrow_kernels import Acceptance, build_tree, commit_path_, commit_tree_
from sparrow_kernels.ops import env
from sparrow_kernels.ops.gather.ops import COMMIT_PATH, COMMIT_TREE

HIDDEN = 4


def hidden_states(batch: int, size: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(batch, size, HIDDEN).to(dtype) for _ in range(2)]


def acceptance(commit: Committed) -> Acceptance:
    path = commit.path()
    return Acceptance(path, commit.accept_length(), torch.full(path.shape, -1))


def expect_hidden(hidden: torch.Tensor, states: list[torch.Tensor], paths: list[list[int]]) -> None:
    assert hidden.dtype == states[0].dtype
    expected = torch.zeros_like(hidden)
    for b, path in enumerate(paths):
        for k, node in enumerate(path):
            expected[b, k] = torch.cat([state[b, node] for state in states])
    assert torch.equal(hidden, expected)


@each_backend(COMMIT_PATH)
@given(
    commits(),
    st.sampled_from(list(STORAGES)),
    st.sampled_from([(torch.float32, torch.float32), (torch.bfloat16, torch.float16)]),
)
@settings(max_examples=80, deadline=None)
def test_drawn_paths(
    backend: str, commit: Committed, storage: str, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    batch = len(commit.paths)
    caches = GuardedCaches(storage, batch, commit.capacity, dtypes[0])
    states = hidden_states(batch, max(1, *commit.num_nodes), dtypes[1])
    lens = commit.lens()
    with env.backend(backend):
        hidden = commit_path_(acceptance(commit), caches.keys, caches.values, states, lens)
    caches.expect_moved(commit)
    expect_hidden(hidden, states, commit.paths)
    expected = [n + len(path) for n, path in zip(commit.prefix_lens, commit.paths, strict=True)]
    assert lens.tolist() == expected


def walk(tree: list[int], tokens: list[int], target_tokens: list[int], max_path: int) -> list[int]:
    path = [0] if tree else []
    while path and len(path) < max_path:
        wanted = target_tokens[path[-1]]
        agreeing = [child for child in children(tree, path[-1]) if tokens[child] == wanted]
        if not agreeing:
            break
        path.append(min(agreeing))
    return path


@each_backend(COMMIT_TREE)
@given(forests(max_nodes=9), st.integers(1, 6), st.sampled_from(list(STORAGES)), st.data())
@settings(max_examples=80, deadline=None)
def test_drawn_trees(
    backend: str, drawn: tuple[list[list[int]], int], max_path: int, storage: str,
    data: st.DataObject,
) -> None:  # fmt: skip
    batch, size = drawn
    rows = st.lists(st.integers(0, 1), min_size=size, max_size=size)
    tokens, target_tokens = ([data.draw(rows) for _ in batch] for _ in range(2))
    lens = [data.draw(st.integers(0, 5)) for _ in batch]
    paths = [
        walk(tree, *drafted, max_path)
        for tree, *drafted in zip(batch, tokens, target_tokens, strict=True)
    ]
    commit = Committed(5 + size, [len(tree) for tree in batch], lens, paths, max_path)
    caches = GuardedCaches(storage, len(batch), commit.capacity)
    states, prefix_lens = hidden_states(len(batch), size), commit.lens()
    with env.backend(backend):
        accepted, hidden = commit_tree_(
            torch.tensor(tokens), build_tree(*padded(batch, size)), torch.tensor(target_tokens),
            caches.keys, caches.values, states, prefix_lens, max_path,
        )  # fmt: skip
    assert torch.equal(accepted.path, commit.path())
    assert torch.equal(accepted.accept_length, commit.accept_length())
    for b, path in enumerate(paths):
        emitted = [target_tokens[b][node] for node in path]
        assert accepted.tokens[b].tolist() == emitted + [-1] * (max_path - len(path))
    caches.expect_moved(commit)
    expect_hidden(hidden, states, paths)
    assert prefix_lens.tolist() == [n + len(path) for n, path in zip(lens, paths, strict=True)]


@each_backend(COMMIT_TREE)
@pytest.mark.parametrize("size", [1, 64, 65, 128, 1024])
def test_sizes_of_tree(backend: str, size: int) -> None:
    tree = random_tree(size, size)
    generator = torch.Generator().manual_seed(size)
    tokens = torch.randint(0, 2, (2, size), generator=generator)
    target_tokens = torch.randint(0, 2, (2, size), generator=generator)
    paths = [walk(tree, tokens[b].tolist(), target_tokens[b].tolist(), 20) for b in range(2)]
    commit = Committed(size + 9, [size] * 2, [9, 2], paths, 20)
    caches, states, lens = GuardedCaches("slab", 2, size + 9), hidden_states(2, size), commit.lens()
    with env.backend(backend):
        accepted, hidden = commit_tree_(
            tokens, build_tree(torch.tensor([tree] * 2, dtype=torch.int32)), target_tokens,
            caches.keys, caches.values, states, lens, 20,
        )  # fmt: skip
    assert torch.equal(accepted.path, commit.path())
    caches.expect_moved(commit)
    expect_hidden(hidden, states, paths)


@each_backend(COMMIT_PATH)
@pytest.mark.parametrize(
    ("lens", "length", "advanced"),
    [
        (6, 2, 8), (9, 1, 8), (2**31 - 1, 2, 8), (-3, 2, 0), (3, 2**31 - 1, 6), (3, -5, 3),
        (99, -1, 99), (-(2**31), 0, -(2**31) + 1),
    ],
)  # fmt: skip
def test_lengths_out_of_range(backend: str, lens: int, length: int, advanced: int) -> None:
    """Unchecked: idle below 0, the length clamped to the path and the new prefix to the cache."""
    caches, states = GuardedCaches("slab", 1, 8), hidden_states(1, 5)
    path, prefix_lens = torch.tensor([[0, 2, 3]]).int(), torch.tensor([lens], dtype=torch.int32)
    accepted = Acceptance(path, torch.tensor([length], dtype=torch.int32), path.long())
    with env.backend(backend), env.checks(False):
        hidden = commit_path_(accepted, caches.keys, caches.values, states, prefix_lens)
    assert prefix_lens.tolist() == [advanced]
    expect_hidden(hidden, states, [[0, 2, 3][: max(0, min(length, 2) + 1)]])
    for cache, before in zip((*caches.keys, *caches.values), caches.before, strict=True):
        cache.copy_(before)
    caches.expect_untouched()


@each_backend(COMMIT_PATH)
@pytest.mark.parametrize("node", [5, -1, 2**31 - 1, -(2**31)])
def test_paths_out_of_the_states(backend: str, node: int) -> None:
    caches, states = GuardedCaches("slab", 1, 20), hidden_states(1, 5)
    path, lens = torch.tensor([[0, node]]).int(), torch.tensor([3], dtype=torch.int32)
    accepted = Acceptance(path, torch.tensor([1], dtype=torch.int32), path.long())
    message = rf"commit_path_: path must be .*path\[0\]\[1\] = {node}$"
    with pytest.raises(ValueError, match=message):
        commit_path_(accepted, caches.keys, caches.values, states, lens)
    assert lens.tolist() == [3]
    with env.backend(backend), env.checks(False):
        hidden = commit_path_(accepted, caches.keys, caches.values, states, lens)
    assert torch.equal(hidden[0, 0], torch.cat([state[0, 0] for state in states]))
    assert not hidden[0, 1].any()
    for cache, before in zip((*caches.keys, *caches.values), caches.before, strict=True):
        cache.copy_(before)
    caches.expect_untouched()


def tree_call(lens: int) -> dict:
    zeros = torch.zeros(1, 3, dtype=torch.int64)
    return {
        "tokens": zeros,
        "layout": build_tree(torch.tensor([[-1, 0, 1]], dtype=torch.int32)),
        "target_tokens": zeros,
        "keys": [torch.randn(1, 2, 8, 4)],
        "values": [torch.randn(1, 2, 8, 4)],
        "states": hidden_states(1, 3),
        "prefix_lens": torch.tensor([lens], dtype=torch.int32),
        "max_path": 3,
    }


@each_backend(COMMIT_TREE)
@pytest.mark.parametrize("lens", [6, -1, 2**31 - 1])
def test_a_tree_that_does_not_fit(backend: str, lens: int) -> None:
    call = tree_call(lens)
    with pytest.raises(ValueError, match=rf"commit_tree_: prefix_lens must be .*\[0\] = {lens}$"):
        commit_tree_(**call)
    assert call["prefix_lens"].item() == lens
    before = call["keys"][0].clone()
    with env.backend(backend), env.checks(False):
        accepted, _ = commit_tree_(**call)
    assert accepted.path.tolist() == [[0, 1, 2]]
    assert call["prefix_lens"].item() == min(lens + 3, 8)
    assert torch.equal(call["keys"][0], before)  # a chain is where it belongs already


@each_backend(COMMIT_TREE)
def test_broken_links(backend: str) -> None:
    call = tree_call(2)
    call["layout"].first_child[0, 1] = 77
    with pytest.raises(ValueError, match=r"commit_tree_: layout.first_child .*\[0\]\[1\] = 77"):
        commit_tree_(**call)
    with env.backend(backend), env.checks(False):
        accepted, _ = commit_tree_(**call)
    assert accepted.path.tolist() == [[0, 1, -1]]


def test_wrong_kinds_are_refused() -> None:
    call = tree_call(2)
    with pytest.raises(TypeError, match="acceptance must be an Acceptance, got tuple"):
        commit_path_((1, 2, 3), call["keys"], call["values"], call["states"], call["prefix_lens"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"states\[0\] must be \[B, T, H\] = \[1, 3, H\], got"):
        commit_tree_(**call | {"states": hidden_states(1, 4)})
    with pytest.raises(ValueError, match="max_path must be at least 1"):
        commit_tree_(**call | {"max_path": 0})
    with pytest.raises(TypeError, match="target_tokens must be int64, got int32"):
        commit_tree_(**call | {"target_tokens": call["target_tokens"].int()})
    with pytest.raises(ValueError, match=r"prefix_lens must be \[B\] = \[1\], got \[2\]"):
        commit_tree_(**call | {"prefix_lens": call["prefix_lens"].repeat(2)})
