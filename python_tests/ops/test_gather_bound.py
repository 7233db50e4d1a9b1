"""`bind_caches`: the same commits as with lists, to the same bits, refusals and graphs."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from dispatch import compiles_once
from torch import Tensor

from sparrow_kernels import (
    Acceptance,
    bind_caches,
    build_tree,
    commit_path_,
    commit_tree_,
    compact_cache_,
)
from sparrow_kernels.ops import env, native
from sparrow_kernels.ops.gather import commit_bound

pytestmark = [
    pytest.mark.skipif(native.unavailable() is not None, reason="no native library"),
    # Without gradients, as a decoding step is: with them lists are handed on.
    pytest.mark.usefixtures("without_gradients"),
]
LAYOUT = build_tree(torch.tensor([[-1, 0, 1, 0, 3], [-1, 0, 0, 2, 2]], dtype=torch.int32))
TOKENS = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
WANTED = torch.tensor([[3, 0, 0, 4, 7], [2, 0, 4, 0, 9]])  # paths 0 3 4 and 0 2 4


@pytest.fixture
def without_gradients():
    with torch.no_grad():
        yield


def made() -> dict[str, Any]:
    torch.manual_seed(0)
    keys, values = torch.randn(2, 3, 2, 2, 12, 4).unbind()
    return {
        "keys": list(keys),
        "values": list(values),
        "states": [torch.randn(2, 5, 6)],
        "prefix_lens": torch.tensor([1, 3], dtype=torch.int32),
    }


def tree(given: dict[str, Any], **more: Any) -> Any:
    call = {"tokens": TOKENS, "layout": LAYOUT, "target_tokens": WANTED, "max_path": 3}
    return commit_tree_(**call | given | more)


def path(given: dict[str, Any]) -> Any:
    nodes = torch.tensor([[0, 3, 4], [0, 2, -1]], dtype=torch.int32)
    length = torch.tensor([2, 1], dtype=torch.int32)
    return commit_path_(**{"acceptance": Acceptance(nodes, length, nodes)} | given)


def compact(given: dict[str, Any]) -> None:
    nodes = torch.tensor([[0, 3, 4], [0, 2, -1]], dtype=torch.int32)
    length = torch.tensor([2, 1], dtype=torch.int32)
    given = {name: given[name] for name in ("keys", "values", "prefix_lens")}
    compact_cache_(**given, path=nodes, accept_length=length)


NAMES = {tree: "commit_tree_: ", path: "commit_path_: ", compact: "compact_cache_: "}
CALLS = tuple(NAMES)


def bound(given: dict[str, Any]) -> dict[str, Any]:
    keys, values = bind_caches(given["keys"], given["values"])
    return given | {"keys": keys, "values": values}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@pytest.mark.parametrize("checked", [True, False])
def test_bound_caches_are_committed_as_lists_are(
    checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    for name in ("tree", "path", "compact"):
        function = getattr(commit_bound, name)
        monkeypatch.setattr(
            commit_bound, name, lambda *a, f=function: (taken.append(f.__name__), f(*a))[1]
        )
    with env.checks(checked):
        for call in CALLS:
            lists, handles = made(), bound(made())
            for _ in range(2):  # a handle serves step after step
                assert same(call(lists), call(handles))
                assert same(lists, handles)
    assert taken == ["tree", "tree", "path", "path", "compact", "compact"]


@pytest.mark.parametrize("how", ["lists", "bound", "reference"])
def test_results_go_to_out(how: str) -> None:
    given, twin = made(), made()
    if how == "bound":
        given = bound(given)
    acceptance, hidden = tree(twin)
    nothing = Acceptance(*(torch.full_like(each, -77) for each in acceptance))
    wide = torch.full((2, 3, 8), torch.nan)
    out = (nothing, wide[..., 1:7])
    with env.backend("reference" if how == "reference" else "auto"):
        assert tree(given, out=out) is out
    assert same(out, (acceptance, hidden)) and same(given, twin)
    assert bool(wide[..., ::7].isnan().all())
    for bad, message in (
        ((nothing, wide[..., :5]), r"out\[1\] must be \[B, S, L\*H\] = \[2, 3, 6\]"),
        ((nothing._replace(path=nothing.path[:, :2]), hidden), r"out\[0\]\.path must be \[B, S\]"),
        (
            (nothing._replace(tokens=nothing.tokens.int()), hidden),
            r"out\[0\]\.tokens must be int64",
        ),
        (
            (nothing._replace(path=torch.zeros(2, 6).int()[:, :3]), hidden),
            r"out\[0\]\.path must be contiguous",
        ),
        (hidden, "out must be an Acceptance and a tensor"),
    ):
        before = given["prefix_lens"].fill_(3).clone()
        with pytest.raises((ValueError, TypeError), match="commit_tree_: " + message):
            tree(given, out=bad)
        assert torch.equal(given["prefix_lens"], before)


REFUSED: dict[str, dict[str, Any]] = {
    "a length beyond the cache": {"prefix_lens": torch.tensor([3, 11], dtype=torch.int32)},
    "a negative length": {"prefix_lens": torch.tensor([-1, 3], dtype=torch.int32)},
    "lengths of another dtype": {"prefix_lens": torch.tensor([3, 5])},
    "lengths of another batch": {"prefix_lens": torch.tensor([3], dtype=torch.int32)},
    "lengths that overlap": {"prefix_lens": torch.tensor([[3, 5]]).int().expand(3, 2)},
    "states of other rows": {"states": [torch.zeros(2, 4, 6)], "only": tree},
    "states that are none": {"states": None, "only": tree},
    "another batch": {"tokens": TOKENS[:1], "only": tree},
    "tokens of another dtype": {"tokens": TOKENS.int(), "only": tree},
    "no tensor": {"target_tokens": [[1]], "only": tree},
    "no layout": {"layout": LAYOUT[:5], "only": tree},
    "no acceptance": {"acceptance": (1, 2), "only": path},
    "a link that leads back": {
        "layout": LAYOUT._replace(first_child=torch.zeros(2, 5).int()), "only": tree,
    },
    "a path of no node": {"max_path": 0, "only": tree},
    "a table": {"block_table": torch.zeros(3, 1).int(), "only": tree},
    "a table to nowhere": {"block_table": torch.full((2, 2), 7).int(), "only": tree},
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_those_of_lists(case: str) -> None:
    wrong = dict(REFUSED[case])
    only = wrong.pop("only", None)
    for call in CALLS if only is None else (only,):
        if call is compact and case == "lengths that overlap":
            continue  # which it does not write
        said = []
        for given in (made(), bound(made())):
            before = copy.deepcopy(given)
            with pytest.raises((ValueError, TypeError, AttributeError)) as refusal:
                call(given | wrong)
            said.append((refusal.type, str(refusal.value)))
            assert same(given, before)
        assert said[0] == said[1] and said[0][1].startswith(NAMES[call])


def test_a_layer_that_moves_is_found() -> None:
    """Set to other memory or resized in place, by whoever holds the tensor."""
    given = bound(made())
    tree(given)
    lists = copy.deepcopy(made())
    given["prefix_lens"].copy_(lists["prefix_lens"])
    with torch.no_grad():
        for own, fresh in zip(
            (*given["keys"], *given["values"]), (*lists["keys"], *lists["values"]), strict=True
        ):
            own.set_(fresh.clone())  # type: ignore[call-overload]
    assert same(tree(given), tree(lists)) and same(given, lists)
    given["values"][1].resize_(2, 2, 9, 4)
    with pytest.raises(ValueError, match=r"commit_tree_: values\[1\] must be \[2, 2, 12, 4\]"):
        tree(given)


def test_a_copy_is_bound_to_nothing() -> None:
    keys, _ = bind_caches(made()["keys"], made()["values"])
    for other in (copy.copy(keys), copy.deepcopy(keys), pickle.loads(pickle.dumps(keys)), keys[:2]):
        assert type(other) is tuple
    assert copy.deepcopy(keys)[0] is not keys[0]


def test_handles_that_were_not_bound_together_are_lists() -> None:
    one, other, lists = bound(made()), bound(made()), made()
    mixed = one | {"values": other["values"]}
    assert same(tree(mixed), tree(lists))
    assert same(mixed, lists) and same(one["values"], made()["values"])


def test_tensors_end_with_their_handles() -> None:
    given = made()
    handles = bound(given)
    storage = weakref.ref(given["keys"][0])
    assert tree(handles) is not None
    number = handles["keys"].caches.number
    del given, handles
    gc.collect()
    assert storage() is None
    nodes = torch.zeros(2, 1, dtype=torch.int32)
    lens = torch.zeros(2, dtype=torch.int32)
    with pytest.raises(ValueError, match=f"keys must be caches that are bound, got {number}"):
        torch.ops.sparrow_native.compact_bound_(nodes, lens, number, lens, None, False)


def test_what_is_no_list_of_caches_is_refused() -> None:
    given = made()
    for keys, values, message in (
        ([], [], "keys must be at least one layer"),
        (given["keys"], given["values"][:2], "values must be 3 layers"),
        (given["keys"], [value[:, :1] for value in given["values"]], r"values\[0\] must be \[2, 2"),
        (given["keys"][0], given["values"], "keys must be a sequence"),
    ):
        with pytest.raises((ValueError, TypeError), match="bind_caches: " + message):
            bind_caches(keys, values)


@pytest.mark.slow
def test_a_graph_sees_the_lists() -> None:
    """Compiled once, and the caches are written as in eager mode."""

    def step(keys: Any, values: Any, states: list[Tensor], lens: Tensor) -> Any:
        given = {"keys": keys, "values": values, "states": states, "prefix_lens": lens}
        return tree(given)

    def make() -> list[Any]:
        given = made()
        for name in ("keys", "values"):  # views of a slab are not compiled for any size
            given[name] = [each.clone() for each in given[name]]
        given = bound(given)
        return [given["keys"], given["values"], given["states"], given["prefix_lens"]]

    with torch.enable_grad():
        compiles_once(step, [make, make])


def test_a_profiler_sees_the_op() -> None:
    given = bound(made())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        tree(given)
    assert any(event.key == "sparrow::commit_tree_" for event in profile.key_averages())


@torch.enable_grad()
def test_a_derivative_is_refused_and_a_write_is_heard_of() -> None:
    """A call with gradients on goes to the library too, and autograd hears of it."""
    given = made()
    keys, values = bind_caches(given["keys"], given["values"])
    versions = [each._version for each in (*keys, *values)]
    tree(given, keys=keys, values=values)
    assert all(
        each._version > before for each, before in zip((*keys, *values), versions, strict=True)
    )
    asking = [given["states"][0].requires_grad_()]
    lengths = given["prefix_lens"].clone()
    with pytest.raises(NotImplementedError, match="commit_tree_: states must not require grad"):
        tree(given, keys=keys, values=values, states=asking, prefix_lens=lengths)
    assert lengths.equal(given["prefix_lens"])


def test_nobody_needs_states() -> None:
    given = made()
    keys, values = bind_caches(given["keys"], given["values"])
    lengths = given["prefix_lens"].clone()
    _, wanted = tree(given, prefix_lens=lengths.clone())
    _, hidden = tree(given, keys=keys, values=values, states=[], prefix_lens=lengths)
    assert hidden.shape == (*wanted.shape[:2], 0)
    assert lengths.tolist() != given["prefix_lens"].tolist()
