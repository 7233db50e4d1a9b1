"""`compact_cache_` moves the path's rows, and nothing else, in caches of any storage."""

from __future__ import annotations

import pytest
import torch
from cache_cases import STORAGES, Committed, GuardedCaches, clones, commits
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import each_backend

from sparrow_kernels import compact_cache_
from sparrow_kernels.ops import env
from sparrow_kernels.ops.gather.ops import COMPACT_CACHE

RUNS = each_backend(COMPACT_CACHE)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def compact(backend: str, caches: GuardedCaches, commit: Committed) -> None:
    with env.backend(backend):
        compact_cache_(
            caches.keys, caches.values, commit.path(), commit.accept_length(), commit.lens()
        )


@RUNS
@given(commits(), st.sampled_from(list(STORAGES)), st.sampled_from(DTYPES))
@settings(max_examples=80, deadline=None)
def test_drawn_paths(backend: str, commit: Committed, storage: str, dtype: torch.dtype) -> None:
    caches = GuardedCaches(storage, len(commit.paths), commit.capacity, dtype)
    compact(backend, caches, commit)
    caches.expect_moved(commit)


NAMED = {
    "root alone": Committed(8, [5], [3], [[0]], 4),
    "nothing moves": Committed(8, [5], [3], [[0, 1, 2, 3, 4]], 5),
    "deepest": Committed(70, [65], [5], [list(range(0, 65, 2))], 40),
    "last slot": Committed(8, [5], [3], [[0, 4]], 2),
    "no prefix": Committed(6, [5], [0], [[0, 2, 4]], 3),
    "all idle": Committed(8, [0, 0], [3, 8], [[], []], 4),
    "one idle": Committed(8, [0, 5], [8, 3], [[], [0, 3]], 4),
}


@RUNS
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", NAMED)
def test_named_paths(backend: str, name: str, storage: str) -> None:
    commit = NAMED[name]
    caches = GuardedCaches(storage, len(commit.paths), commit.capacity)
    compact(backend, caches, commit)
    caches.expect_moved(commit)


@RUNS
def test_empty_batch(backend: str) -> None:
    none = torch.empty(0, dtype=torch.int32)
    with env.backend(backend):
        compact_cache_(
            [torch.empty(0, 2, 8, 4)], [torch.empty(0, 2, 8, 4)], none.reshape(0, 3), none, none
        )


BAD = {
    "path does not increase": ({"path": [[0, 3, 3]]}, r"path must be .*\[0\]\[2\] = 3"),
    "path falls": ({"path": [[0, 3, 1]]}, r"path must be .*\[0\]\[2\] = 1"),
    "path has a hole": ({"path": [[0, -1, 4]]}, r"path must be .*\[0\]\[1\] = -1"),
    "path starts below 0": ({"path": [[-7, 1, 4]]}, r"path must be .*\[0\]\[0\] = -7"),
    "path beyond the cache": ({"path": [[0, 2, 5]]}, r"prefix_lens must be .*\[0\] = 3"),
    "far path": ({"path": [[0, 2, 2**31 - 1]]}, r"prefix_lens must be .*\[0\] = 3"),
    "length beyond the path": ({"accept_length": [3]}, r"accept_length must be .*\[0\] = 3"),
    "far length": ({"accept_length": [2**31 - 1]}, r"accept_length must be .*\[0\] = "),
    "length below idle": ({"accept_length": [-2]}, r"accept_length must be .*\[0\] = -2"),
    "prefix beyond the cache": ({"prefix_lens": [9]}, r"prefix_lens must be .*\[0\] = 9"),
    "far prefix": ({"prefix_lens": [2**31 - 1]}, r"prefix_lens must be .*\[0\] = "),
    "negative prefix": ({"prefix_lens": [-2]}, r"prefix_lens must be .*\[0\] = -2"),
    "far negative prefix": ({"prefix_lens": [-(2**31)]}, r"prefix_lens must be .*\[0\] = "),
}


def moved_as_agreed(before: torch.Tensor, path: list[int], length: int, lens: int) -> torch.Tensor:
    """Unchecked: in ascending order, skipping what has no source or no destination."""
    cache, capacity = before.clone(), before.shape[2]
    for k in range(min(length, len(path) - 1) + 1):
        source, destination = lens + path[k], lens + k
        if path[k] >= 0 and 0 <= source < capacity and 0 <= destination < capacity:
            cache[0, :, destination] = cache[0, :, source].clone()
    return cache


@RUNS
@pytest.mark.parametrize("name", BAD)
def test_bad_values(backend: str, name: str) -> None:
    changes, message = BAD[name]
    lists = {"path": [[0, 2, 4]], "accept_length": [2], "prefix_lens": [3]} | changes
    arguments = {key: torch.tensor(value, dtype=torch.int32) for key, value in lists.items()}
    caches = GuardedCaches("slab", 1, 8)
    with pytest.raises(ValueError, match="compact_cache_: " + message):
        compact_cache_(caches.keys, caches.values, **arguments)
    caches.expect_untouched()
    caches = GuardedCaches("slab", 1, 8)
    with env.backend(backend), env.checks(False):
        compact_cache_(caches.keys, caches.values, **arguments)
    for cache, before in zip((*caches.keys, *caches.values), caches.before, strict=True):
        path, (length,), (lens,) = lists["path"][0], lists["accept_length"], lists["prefix_lens"]
        assert torch.equal(cache, moved_as_agreed(before, path, length, lens))
        cache.copy_(before)
    caches.expect_untouched()


def test_wrong_kinds_are_refused_and_nothing_is_written() -> None:
    commit = NAMED["last slot"]
    good = GuardedCaches("apart", 1, 8)
    path, length, lens = commit.path(), commit.accept_length(), commit.lens()
    other_strides = torch.zeros(1, 8, 2, 5).transpose(1, 2)
    wrong = [
        (([], []), ValueError, r"keys must be at least one layer, got none"),
        ((good.keys, good.values[:2]), ValueError, "values must be 3 layers, as keys, got 2"),
        ((good.keys, clones(good.values)[:2] + [torch.zeros(1, 2, 9, 5)]), ValueError,
         r"values\[2\] must be \[1, 2, 8, 5\], as the first layer, got \[1, 2, 9, 5\]"),
        ((good.keys, [*good.values[:2], other_strides]), ValueError,
         r"values\[2\] must be of strides \[80, 40, 5, 1\]"),
        (([*good.keys[:2], good.keys[2].half()], good.values), TypeError, r"keys\[2\] must be"),
        (([x[0] for x in good.keys], good.values), ValueError, r"keys\[0\] must be \[B, Hkv, N, D"),
        (([x.mT for x in good.keys], good.values), ValueError, "contiguous in its last dim"),
        ((good.keys[0], good.values), TypeError, "keys must be a sequence of tensors"),
    ]  # fmt: skip
    for (keys, values), error, message in wrong:
        with pytest.raises(error, match=message):
            compact_cache_(keys, values, path, length, lens)
    with pytest.raises(ValueError, match=r"accept_length must be \[B\] = \[1\], got \[2\]"):
        compact_cache_(good.keys, good.values, path, length.repeat(2), lens)
    with pytest.raises(TypeError, match="prefix_lens must be int32, got int64"):
        compact_cache_(good.keys, good.values, path, length, lens.long())
    good.expect_untouched()
