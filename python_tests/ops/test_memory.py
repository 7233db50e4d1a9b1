"""Memory that ops follow pointers into: freed, shared, expanded."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from dispatch import compiles_once
from torch import Tensor

import sparrow_kernels as sk
from sparrow_kernels.ops import memory, native

BACKENDS = ["reference"] if native.unavailable() else ["auto", "reference"]
Call = Callable[[Any], Any]


@pytest.fixture(autouse=True, params=BACKENDS)
def checked(request: pytest.FixtureRequest) -> Iterator[None]:
    with sk.backend(request.param), sk.checks(True):
        yield


def int32(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def cache() -> Tensor:
    return torch.arange(64.0).reshape(1, 2, 8, 4)


LENGTHS, PATH, ACCEPTED = int32(1), int32([0, 2, 3, 4]), int32(3)
LAYOUT = sk.build_tree(int32([-1, 0, 0, 2, 3]))
TOKENS = torch.tensor([[0, 1, 2, 3, 4]])
ROWS, STATES = torch.ones(1, 2, 5, 4), [torch.ones(1, 5, 6)]
ACCEPTANCE = sk.Acceptance(PATH, ACCEPTED, torch.zeros(1, 4, dtype=torch.int64))


def compact(keys: list[Tensor], values: list[Tensor]) -> None:
    sk.compact_cache_(keys, values, PATH, ACCEPTED, LENGTHS)


def commit_path(keys: list[Tensor], values: list[Tensor]) -> None:
    sk.commit_path_(ACCEPTANCE, keys, values, [], LENGTHS.clone())


def commit_tree(keys: list[Tensor], values: list[Tensor], **out: Any) -> Any:
    lengths = LENGTHS.clone()
    return sk.commit_tree_(TOKENS, LAYOUT, TOKENS, keys, values, STATES, lengths, 4, **out)


def append(key_cache: Tensor, value_cache: Tensor, key: Tensor = ROWS) -> None:
    sk.append_cache_(key, ROWS, key_cache, value_cache, LENGTHS)


def rotate_append(key_cache: Tensor, value_cache: Tensor) -> None:
    angles = torch.ones(1, 5, 4)
    sk.rotate_append_(ROWS, ROWS, ROWS, angles, angles, key_cache, value_cache, LENGTHS)


def attend(query: Tensor = ROWS, key: Tensor | None = None, **out: Any) -> Any:
    key = cache() if key is None else key
    return sk.tree_attention(query, key, key, LAYOUT.ancestors, LENGTHS, **out)


COMMITS = {
    "compact_cache_": compact,
    "commit_path_": commit_path,
    "commit_tree_": commit_tree,
    "bind_caches": sk.bind_caches,
}


@pytest.mark.parametrize("op", COMMITS)
def test_a_cache_is_listed_once(op: str) -> None:
    shared, other, third = cache(), cache(), cache()
    long = torch.zeros(1, 2, 9, 4)
    for keys, values, message in (
        ([shared], [shared], r"values\[0\] must be in memory of its own, got memory of keys\[0\]"),
        ([shared, shared], [other, third], r"keys\[1\] must be .* got memory of keys\[0\]"),
        ([other, shared], [third, shared.view_as(shared)], r"values\[1\] .* of keys\[1\]"),
        ([long[:, :, 1:]], [long[:, :, :-1]], r"values\[0\] .* of keys\[0\]"),
    ):
        before = [each.clone() for each in (*keys, *values)]
        with pytest.raises(ValueError, match=f"^{op}: {message}"):
            COMMITS[op](keys, values)
        for one, each in zip((*keys, *values), before, strict=True):
            assert torch.equal(one, each)


@pytest.mark.parametrize("op", COMMITS)
def test_views_of_one_slab_that_share_nothing_are_taken(op: str) -> None:
    """Layers between one another, keys beside values in a row, one after another."""
    parent = torch.tensor([[-1, 0]] * 3, dtype=torch.int32)
    path, accepted, lengths = int32([0], [0], [0]), int32(0, 0, 0), int32(1, 1, 1)
    for slab in (
        torch.zeros(3, 4, 2, 8, 4).unbind(1),
        torch.zeros(2, 3, 2, 8, 8).view(2, 3, 2, 8, 2, 4).permute(0, 4, 1, 2, 3, 5).flatten(0, 1),
        torch.zeros(4, 3, 2, 8, 4).unbind(0),
    ):
        keys, values = list(slab[:2]), list(slab[2:])
        if op == "compact_cache_":
            sk.compact_cache_(keys, values, path, accepted, lengths)
        elif op == "commit_path_":
            acceptance = sk.Acceptance(path, accepted, path.long())
            sk.commit_path_(acceptance, keys, values, [], lengths.clone())
        elif op == "commit_tree_":
            tokens = torch.zeros(3, 2, dtype=torch.int64)
            layout = sk.build_tree(parent)
            sk.commit_tree_(tokens, layout, tokens, keys, values, [], lengths.clone(), 2)
        else:
            sk.bind_caches(keys, values)


@pytest.mark.parametrize("call", [append, rotate_append])
def test_appends_write_to_caches_of_their_own(call: Call) -> None:
    name, shared = call.__name__, cache()
    with pytest.raises(ValueError, match=f"{name}.*: value_cache must be .* memory of key_cache"):
        call(shared, shared)
    expanded = torch.zeros(1, 1, 8, 4).expand(1, 2, 8, 4)
    message = f"{name}.*: key_cache must be without elements that share memory, got strides"
    with pytest.raises(ValueError, match=message):
        call(expanded, shared)


def test_rows_do_not_come_out_of_the_cache_they_go_to() -> None:
    shared = cache()
    with pytest.raises(ValueError, match="append_cache_: key_cache must be .* got memory of key"):
        append(shared, cache(), shared[:, :, :5])


def test_out_is_nobody_elses() -> None:
    states, index = torch.ones(1, 5, 6), int32([4, 3, 2, 1, 0])
    with pytest.raises(ValueError, match=r"gather_hidden: out must be .* memory of states\[0\]"):
        sk.gather_hidden([states], index, out=states)
    with pytest.raises(ValueError, match="gather_hidden: out must be without elements that share"):
        sk.gather_hidden([states], index, out=torch.ones(1, 1, 6).expand(1, 5, 6))
    query = ROWS.clone()
    with pytest.raises(ValueError, match=r"tree_attention: out must be .* got memory of query"):
        attend(query, out=query)
    with pytest.raises(ValueError, match=r"tree_attention: out must be without elements"):
        attend(query, out=torch.ones(1, 1, 5, 4).expand(1, 2, 5, 4))
    assert torch.equal(query, ROWS)
    slab = torch.zeros(64)
    out = slab[:40].view(1, 2, 5, 4)
    lengths = slab.view(torch.int32)[39:40].fill_(1)
    words = slab.view(torch.int64)[15:20].view(1, 5, 1).copy_(LAYOUT.ancestors)
    with pytest.raises(ValueError, match="tree_attention: out must be .* memory of prefix_lens"):
        sk.tree_attention(query, cache(), cache(), LAYOUT.ancestors, lengths, out=out)
    with pytest.raises(ValueError, match="tree_attention: out must be .* memory of ancestors"):
        sk.tree_attention(query, cache(), cache(), words, LENGTHS, out=out)
    assert torch.equal(words, LAYOUT.ancestors)
    beside = torch.ones(1, 2, 5, 8)
    query, out = beside[..., :4], beside[..., 4:]
    assert attend(query, out=out) is out and torch.equal(out, attend())


@pytest.mark.parametrize("bound", [False, True])
def test_what_a_commit_returns_is_nobody_elses(bound: bool) -> None:
    caches: Any = [cache()], [cache()]
    in_a_cache = caches[1][0].flatten()[8:32].view(1, 4, 6)
    if bound:
        caches = sk.bind_caches(*caches)
    path, hidden = torch.zeros(1, 4, dtype=torch.int32), torch.zeros(1, 4, 6)
    length, tokens = torch.zeros(1, dtype=torch.int32), torch.zeros(1, 4, dtype=torch.int64)
    for out, message in (
        ((path, path[0, :1], tokens, hidden), r"out\[0\].accept_length must .* out\[0\].path"),
        ((path, length, TOKENS[:, :4], hidden), r"out\[0\].tokens must be .* memory of tokens"),
        ((path, length, tokens, STATES[0][:, 1:]), r"out\[1\] must be .* memory of states\[0\]"),
        ((path, length, tokens, torch.zeros(6).expand(1, 4, 6)), r"out\[1\] must be without"),
        ((path, length, tokens, in_a_cache), r"out\[1\] must be .* memory of values\[0\]"),
    ):
        with pytest.raises(ValueError, match=f"commit_tree_: {message}"):
            commit_tree(*caches, out=(sk.Acceptance(*out[:3]), out[3]))
    out = sk.Acceptance(path, length, tokens), hidden
    assert commit_tree(*caches, out=out) is out


def freed(like: Tensor | None = None) -> Tensor:
    tensor = cache() if like is None else like.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


FREED: dict[str, tuple[Callable[[], Any], str]] = {
    "compact": (lambda: compact([cache()], [freed()]), r"compact_cache_: values\[0\]"),
    "commit_path": (lambda: commit_path([freed()], [cache()]), r"commit_path_: keys\[0\]"),
    "commit_tree": (lambda: commit_tree([freed()], [cache()]), r"commit_tree_: keys\[0\]"),
    "bind": (lambda: sk.bind_caches([freed()], [cache()]), r"bind_caches: keys\[0\]"),
    "append": (lambda: append(freed(), cache()), "append_cache_: key_cache"),
    "append to": (lambda: append(cache(), cache(), freed(ROWS)), "append_cache_: key must"),
    "rotate_append": (lambda: rotate_append(cache(), freed()), "rotate_append_: value_cache"),
    "attend": (lambda: attend(key=freed()), "tree_attention: key"),
    "attend from": (lambda: attend(freed(ROWS)), "tree_attention: query"),
    "out": (lambda: attend(out=freed(ROWS)), "tree_attention: out"),
    "gather": (
        lambda: sk.gather_hidden([freed(ROWS[0])], int32([1], [1])),
        "gather_hidden: states",
    ),
    "mass": (lambda: sk.attention_mass(ROWS, freed(), LENGTHS), "attention_mass: key"),
    "topk": (lambda: sk.topk_logprobs(freed(), 2), "topk_logprobs: logits"),
}


@pytest.mark.parametrize("name", FREED)
def test_a_freed_tensor_is_named(name: str) -> None:
    call, message = FREED[name]
    with pytest.raises(ValueError, match=f"{message}.* in a storage of .* bytes or more, got 0"):
        call()


def test_a_bound_cache_that_was_freed_or_cut_short_is_named() -> None:
    keys, values = [cache()], [cache()]
    bound = sk.bind_caches(keys, values)
    for size in (0, 64):
        values[0].untyped_storage().resize_(size)
        for call in (compact, commit_path, commit_tree):
            with pytest.raises(ValueError, match=rf"values\[0\] must be in .* got {size} "):
                call(*bound)


@pytest.mark.skipif(native.unavailable() is not None, reason="no native library")
def test_the_native_library_follows_no_pointer_into_nothing() -> None:
    """Whether values are checked or not."""
    with sk.checks(False), sk.backend("native"):
        for call in (lambda: append(freed(), cache()), lambda: attend(key=freed())):
            with pytest.raises(ValueError, match="key.* must be in a storage of 256 bytes or more"):
                call()
        with pytest.raises(ValueError, match="values must be in a storage of 256 bytes or more"):
            commit_path([cache()], [freed()])


def test_unchecked_calls_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(memory, "check", looked)
    with sk.checks(False):
        append(cache(), cache())
        commit_tree([cache()], [cache()])
        sk.bind_caches([cache()], [cache()])


def test_a_compiled_call_looks_when_it_runs() -> None:
    def step(key_cache: Tensor, value_cache: Tensor, lengths: Tensor) -> Tensor:
        rows = torch.ones(1, 2, 2, 4)
        sk.append_cache_(rows, rows, key_cache, value_cache, lengths)
        keys, values = sk.bind_caches([key_cache], [value_cache])
        sk.compact_cache_(keys, values, int32([0, 1]), int32(1), lengths)
        return key_cache + 1

    compiles_once(step, [lambda k=k: (cache(), cache(), int32(k)) for k in (2, 3)])


def bytes_of(tensor: Tensor) -> set[int]:
    places: set[int] = set()
    for index in itertools.product(*map(range, tensor.shape)):
        steps = sum(i * s for i, s in zip(index, tensor.stride(), strict=True))
        begin = tensor.data_ptr() + tensor.element_size() * steps
        places |= set(range(begin, begin + tensor.element_size()))
    return places


def test_overlap_is_told_exactly() -> None:
    """By views of one tensor with any strides, against the bytes they have."""
    draw = random.Random(0)
    slab = torch.zeros(120)

    def view(of: Tensor) -> Tensor:
        while True:
            shape = [draw.randint(1, 4) for _ in range(draw.randint(1, 4))]
            strides = [draw.choice([0, 1, 2, 3, 4, 6, 8, 12, 24]) for _ in shape]
            last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
            if last < of.numel():
                return of.as_strided(shape, strides, draw.randrange(of.numel() - last))

    met = 0
    for _ in range(2000):
        one, other = view(slab), view(draw.choice([slab, slab.view(torch.int16)]))
        meets = bool(bytes_of(one) & bytes_of(other))
        runs = [memory._runs(each.shape, each.stride(), each.dtype) for each in (one, other)]
        assert memory._share(other.data_ptr() - one.data_ptr(), *runs) == meets
        met += meets
    assert 100 < met < 1900


def test_what_lies_within_another_hides_no_third() -> None:
    slab = torch.zeros(100)
    names, tensors = ["read", "within", "written"], [slab, slab[10:20], slab[30:40]]
    with pytest.raises(ValueError, match="op: written must be in memory of its own, got .* read "):
        memory.check("op", names, tensors, {2})
