"""`block_table` and `prefix_lens` of a layer in the public cache ops: what they mean by definition,
and what they are refused for."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from dispatch import compiles_once, opcheck
from page_cases import CALLS, Drawn
from torch import Tensor

from sparrow_kernels import (
    Acceptance,
    append_cache_,
    build_tree,
    commit_path_,
    commit_tree_,
    compact_cache_,
    rotate_append_,
)
from sparrow_kernels.ops import env, native
from sparrow_kernels.ops.attention.cache_ops import APPEND_CACHE, ROTATE_APPEND
from sparrow_kernels.ops.gather.ops import COMMIT_PATH, COMMIT_TREE, COMPACT_CACHE

BACKENDS = [name for name in ("reference", "native") if APPEND_CACHE.unavailable(name) is None]


def int32(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_pages_hold_what_contiguous_caches_hold() -> None:
    """By definition; the native library's are held by test_native_pages.py."""
    with env.backend("reference"), env.checks(True):  # which passes all of them
        for call in CALLS:
            for seed in range(24):
                call(torch.ops.sparrow, Drawn(seed))


LAYOUT = build_tree(torch.tensor([[-1, 0, 1, 1]] * 2, dtype=torch.int32))
TABLE = int32([4, 1, 0], [4, 2, 5])  # page 4 holds the prefix of both, page 3 is nobody's


def calls(lens: Tensor, table: Tensor) -> dict[str, Callable[[], Any]]:
    """Every op on six pages of four slots, two layers; four rows behind each prefix."""
    torch.manual_seed(0)
    keys, values = torch.randn(2, 2, 6, 2, 4, 8).unbind()
    new, states = torch.randn(2, 2, 4, 8), [torch.randn(2, 4, 8)]
    path, length = int32([0, 2, 3], [0, 1, 3]), int32(2, 2)
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    lists, pages = (list(keys), list(values)), {"block_table": table}
    angle = torch.ones(2, 4, 8)
    return {
        "append_cache_": lambda: append_cache_(new, new, keys[0], values[0], lens, **pages),
        "rotate_append_": lambda: rotate_append_(
            new, new, new, angle, angle, keys[0], values[0], lens, **pages
        ),
        "compact_cache_": lambda: compact_cache_(*lists, path, length, lens, **pages),
        "commit_path_": lambda: commit_path_(
            Acceptance(path, length, path.long()), *lists, states, lens, **pages
        ),
        "commit_tree_": lambda: commit_tree_(
            tokens, LAYOUT, tokens, *lists, states, lens, 3, **pages
        ),
    }


REFUSED = [
    ((4, 9), TABLE, r"\[B, pages\] with slot 12 of request 1 in it, got 3 pages of 4 slots"),
    ((4, 5), int32([4, 6, 0], [4, 6, 5]), r"a page in 0\.\.5 .*, got block_table\[0\]\[1\]"),
    ((4, 5), int32([4, 1, -1], [4, 2, -1]), r"a page in 0\.\.5 .*, got block_table\[1\]\[2"),
    ((3, 4), TABLE, r"without a page that one request writes .* block_table\[0\]\[0\] = 4"),
    ((4, 4), int32([4, 1, 0], [4, 1, 2]), r"without a page .* block_table\[0\]\[1\] = 1"),
    ((4, 5), int32([4, 1, 0], [1, 2, 5]), r"without a page .* block_table\[0\]\[1\] = 1"),
    ((5, 4), TABLE.long(), "int32, got int64"),
    ((5, 4), TABLE[:1], r"\[B, pages\] = \[2, pages\], got \[1, 3\]"),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_tables_that_are_refused(backend: str) -> None:
    """With the same words by every op, whoever would have run it; and nothing is written."""
    with env.backend(backend):
        for lens, table, message in REFUSED:
            given = int32(*lens)
            for name, call in calls(given, table).items():
                must_be = f"{name}: block_table must be {message}"
                with pytest.raises((ValueError, TypeError), match=must_be):
                    call()
                assert given.tolist() == list(lens)
        for call in calls(int32(4, 5), TABLE).values():
            call()


def test_the_native_check_refuses_what_python_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Yes or no, of drawn tables, lengths, paths and links."""
    if native.unavailable() is not None:
        pytest.skip("no native library")
    source = random.Random(0)
    cache, outcomes = torch.zeros(5, 1, 2, 1), set()

    def refuses(check: Callable[..., None], *args: Any) -> bool:
        try:
            check(*args)
        except ValueError:
            return True
        return False

    for _ in range(400):
        entries = [0, 1, 2, 3, 4, *([-1, 5] if source.random() < 0.2 else [])]
        table = int32(*([source.choice(entries) for _ in range(4)] for _ in range(2)))
        if source.random() < 0.7:
            table[:, 1:] = torch.randperm(5)[:4].reshape(2, 2).repeat(1, 2)[:, :3].int()
        lens = int32(source.randint(-1, 7), source.randint(0, 5))
        if source.random() < 0.3:
            lens = torch.stack((lens, lens + 1))
        pages = source.choice([table, None])
        at = cache if pages is not None else torch.zeros(2, 1, 7, 1)
        step = source.randint(1, 3)
        path = int32([0, step, 2], [0, 1, source.choice([2, 3, 1, -1])])
        length = int32(source.randint(-1, 2), source.randint(-2, 3))
        depth = int32([0, source.randint(-1, 1)], [source.randint(-1, 0), -1])
        child = int32([source.choice([1, -1]), -1], [-1, source.choice([-1, -1, 1])])
        layers, states, none = [at], [torch.zeros(2, 3, 1)], torch.zeros(0)
        checks = (
            (APPEND_CACHE.check, none[:, None, None].expand(0, 1, step), none, at, at, lens, pages),
            (COMPACT_CACHE.check, layers, layers, path, length, lens, pages),
            (COMMIT_PATH.check, path, length, layers, layers, states, lens, pages),
            (COMMIT_TREE.check, *(none,) * 2, depth, none, child, child.clone().fill_(-1), none,
             layers, layers, states, lens, 3, pages),
        )  # fmt: skip
        for check, *args in checks:
            if check is APPEND_CACHE.check and lens.dim() == 2:
                continue
            said = refuses(check, *args)  # type: ignore[arg-type]
            with monkeypatch.context() as without:
                without.setattr(native, "takes_checks", lambda _: False)
                assert refuses(check, *args) == said, args  # type: ignore[arg-type]
            outcomes.add((check, said))
    assert len(outcomes) == 8  # each of them has passed and refused


@pytest.mark.parametrize("backend", BACKENDS)
def test_lengths_of_a_layer_are_those_of_separate_calls(backend: str) -> None:
    torch.manual_seed(0)
    keys, values = torch.randn(2, 3, 2, 2, 12, 4).unbind()
    path, length = int32([0, 2, 3], [0, 1, -1]), int32(2, -1)
    lens, states = int32([3, 4], [0, 1], [8, 0]), [torch.randn(2, 4, 5)]
    accepted = Acceptance(path, length, path.long())
    alone = [keys.clone(), values.clone(), lens.clone()]
    together = [keys.clone(), values.clone(), lens.clone()]
    with env.backend(backend):
        for n in range(3):
            single = (list(alone[0][n : n + 1]), list(alone[1][n : n + 1]))
            expected = commit_path_(accepted, *single, states, alone[2][n])
        hidden = commit_path_(accepted, list(together[0]), list(together[1]), states, together[2])
        assert torch.equal(hidden, expected)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
        again = [keys.clone(), values.clone()]
        compact_cache_(list(again[0]), list(again[1]), path, length, lens)
        assert all(torch.equal(a, b) for a, b in zip(again, together[:2], strict=True))
        for bad, message in (
            (lens[:2], r"\[L, B\] = \[3, 2\], got \[2, 2\]"),
            (lens[:1].expand(3, 2), "of a row of its own for each layer"),
        ):
            with pytest.raises(ValueError, match="commit_path_: prefix_lens must be " + message):
                commit_path_(accepted, list(keys), list(values), states, bad)
        with pytest.raises(ValueError, match=r"prefix_lens must be .* prefix_lens\[2\]\[0\] = 9"):
            commit_path_(accepted, list(keys), list(values), states, lens + int32(1, 0))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend: str) -> None:
    drawn = {name: torch.randn(2, 2, 3, 8) for name in ("query", "key", "value")}
    row = list(drawn.values())
    angle, lens, per_layer = torch.ones(2, 3, 8), int32(4, 5), int32([4, 5], [5, 4])
    layers = [torch.randn(6, 2, 4, 8) for _ in range(4)]
    path, length = int32([0, 1, 2], [0, 2, -1]), int32(2, 1)
    states, tokens = [torch.randn(2, 4, 8)], torch.zeros(2, 4, dtype=torch.int64)
    caches = layers[:2], layers[2:]
    opcheck(APPEND_CACHE, backend, *row[1:], *layers[:2], lens, TABLE)
    opcheck(ROTATE_APPEND, backend, *row, angle, angle, *layers[:2], lens, TABLE)
    opcheck(COMPACT_CACHE, backend, *caches, path, length, per_layer, TABLE)
    opcheck(COMMIT_PATH, backend, path, length, *caches, states, lens.clone(), TABLE)
    rest = (tokens, *caches, states, per_layer.clone(), 3, TABLE)
    opcheck(COMMIT_TREE, backend, tokens, *LAYOUT[:5], *rest)


@pytest.mark.slow
def test_compiles_once() -> None:
    """The whole step of a layer list over pages, for several numbers of pages."""

    def step(new: Tensor, layers: list[Tensor], states: list[Tensor], lens: Tensor, table: Tensor):
        tokens = torch.zeros(2, 4, dtype=torch.int64)
        angle = torch.ones(2, 4, 8)
        append_cache_(new, new, layers[0], layers[1], lens[0], block_table=table)
        query = rotate_append_(
            new, new, new, angle, angle, layers[2], layers[3], lens[1], block_table=table
        )
        caches = ([layers[0], layers[2]], [layers[1], layers[3]])
        acceptance, hidden = commit_tree_(
            tokens, LAYOUT, tokens, *caches, states, lens, 3, block_table=table
        )
        hidden_again = commit_path_(acceptance, *caches, states, lens, block_table=table)
        compact_cache_(*caches, acceptance.path, acceptance.accept_length, lens, block_table=table)
        return query, hidden, hidden_again

    def arguments(pages: int) -> Callable[[], list[Any]]:
        def make() -> list[Any]:
            torch.manual_seed(pages)
            layers = [torch.randn(pages, 2, 4, 8) for _ in range(4)]
            table = torch.arange(pages, dtype=torch.int32).flip(0).reshape(2, -1)
            lens = int32([4, 1], [3, 2])
            return [torch.randn(2, 2, 4, 8), layers, [torch.randn(2, 4, 8)], lens, table]

        return make

    compiles_once(step, [arguments(10), arguments(14)])
