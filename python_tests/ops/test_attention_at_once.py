"""The short way of an eager tree attention on a CPU: what it takes, gives and refuses is what the
long way takes, gives and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sparrow_kernels import anchor_index, build_tree, tree_attention
from sparrow_kernels.ops import env, native
from sparrow_kernels.ops.attention import at_once

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason="no native library")

SHORT_WAY = at_once.attended


@pytest.fixture(autouse=True)
def checked() -> Iterator[None]:
    with env.checks(True), env.backend("auto"):
        yield


def made(*, paged: bool = False, anchored: bool = False) -> dict[str, Any]:
    """Two requests over 20 slots, five nodes each."""
    torch.manual_seed(0)
    cache = torch.randn(2, 6, 2, 10, 16) if paged else torch.randn(2, 2, 2, 20, 16)
    parent = torch.tensor([[-1, 0, 0, 1, 1], [-1, 0, 1, 2, 3]], dtype=torch.int32)
    layout = build_tree(parent)
    given: dict[str, Any] = {
        "query": torch.randn(2, 4, 5, 16),
        "key": cache[0],
        "value": cache[1],
        "ancestors": layout.ancestors,
        "prefix_lens": torch.tensor([9, 15], dtype=torch.int32),
        "prefix_starts": torch.tensor([0, 2], dtype=torch.int32),
        "num_splits": 1,
    }
    if paged:
        given["block_table"] = torch.tensor([[4, 1], [0, 5]], dtype=torch.int32)
        given["key_bias"] = torch.randn(1, 2, 20)
    if anchored:
        mask = torch.zeros(2, 20, dtype=torch.bool)
        mask[:, ::3] = True
        given |= {"anchors": anchor_index(mask), "window": 4, "depth": layout.depth}
    return given


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each call from here on, whether it went the short way."""
    calls: list[bool] = []

    def watched(*args: Any) -> Any:
        result = SHORT_WAY(*args)
        calls.append(result is not None)
        return result

    monkeypatch.setattr(at_once, "attended", watched)
    return calls


@contextmanager
def the_long_way() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(at_once, "attended", lambda *_: None)
        yield


def of(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("form", ["plain", "paged", "anchored"])
def test_results_are_those_of_the_long_way(form: str, taken: list[bool]) -> None:
    given = made(paged=form == "paged", anchored=form == "anchored")
    for return_lse in (False, True):
        with the_long_way():
            expected = of(tree_attention(**given, return_lse=return_lse))
        result = tree_attention(**given, return_lse=return_lse)
        assert isinstance(result, tuple) == return_lse
        assert all(torch.equal(a, b) for a, b in zip(of(result), expected, strict=True))
        for with_lse in (False, True):
            out = torch.full((2, 4, 5, 32), torch.nan)[..., :16]
            lse = torch.full((2, 4, 5), torch.nan)
            versions = out._version, lse._version
            asked = (out, lse) if with_lse else out
            result = tree_attention(**given, return_lse=return_lse, out=asked)
            assert of(result)[0] is out and out._version > versions[0]
            assert len(of(result)) == 1 + return_lse and torch.equal(out, expected[0])
            if with_lse:
                assert lse._version > versions[1] and bool(lse.isfinite().all())
            if return_lse:
                assert torch.equal(of(result)[1], expected[1])
                assert not with_lse or of(result)[1] is lse
    assert taken == [True] * 6


def wrong() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Calls that are refused: what is given, and what is wrong with it."""
    plain, paged, anchored = made(), made(paged=True), made(anchored=True)
    lens, table, anchors = plain["prefix_lens"], paged["block_table"], anchored["anchors"]
    for name, value in (
        ("query", plain["query"][..., :8]),
        ("query", plain["query"].double()),
        ("query", plain["query"].transpose(2, 3).contiguous().transpose(2, 3)),
        ("query", None),
        ("key", plain["key"][:1]),
        ("value", plain["value"][:, :, :19]),
        ("ancestors", plain["ancestors"].int()),
        ("ancestors", plain["ancestors"][..., :0]),
        ("prefix_lens", lens.long()),
        ("prefix_lens", lens + 6),
        ("prefix_lens", lens + 1),  # the last node's bit lies behind the cache
        ("prefix_lens", lens - 10),
        ("prefix_starts", lens + 1),
        ("prefix_starts", lens - 20),
        ("num_splits", 0),
        ("num_splits", True),
        ("window", 4),
        ("scale", float("nan")),
        ("scale", "1"),
        ("key_bias", torch.full((1, 1, 20), torch.nan)),
        ("key_bias", torch.zeros(1, 3, 20)),
        ("out", torch.zeros(2, 4, 5, 15)),
        ("out", (torch.zeros(2, 4, 5, 16), torch.zeros(2, 4, 5).double())),
        ("out", plain["query"]),
        ("out", (torch.zeros(2, 4, 5, 16), plain["value"].flatten()[:40].view(2, 4, 5))),
        ("out", torch.zeros(4, 5, 16).expand(2, 4, 5, 16)),
    ):
        yield plain, {name: value}
    for value in (table[:1], table.long(), table + 1, table - 1):
        yield paged, {"block_table": value}
    yield paged, {"prefix_lens": lens + 1}
    for name, value in (
        ("window", -1),
        ("window", 4.0),
        ("window", True),
        ("depth", anchored["depth"][:, :4]),
        ("anchors", tuple(anchors)),
        ("anchors", anchors._replace(rank=anchors.rank[:, :20])),
        ("anchors", anchors._replace(rank=anchors.rank + 1)),
        ("anchors", anchors._replace(slots=anchors.slots.flip(1))),
        ("anchors", anchors._replace(count=anchors.count + 30)),
    ):
        yield anchored, {name: value}


def test_refusals_are_those_of_the_long_way() -> None:
    for given, change in wrong():
        call = given | change
        if "out" not in change:
            call["out"] = torch.full((2, 4, 5, 16), torch.nan)
        said = []
        for way in (nullcontext, the_long_way):
            with way(), pytest.raises((ValueError, TypeError)) as error:
                tree_attention(**call)
            said.append((error.type, str(error.value)))
        assert said[0] == said[1], change
        assert "out" in change or bool(call["out"].isnan().all()), change


def test_unchecked_values_are_taken(taken: list[bool]) -> None:
    given = made() | {"prefix_lens": torch.tensor([17, 30], dtype=torch.int32)}
    with env.checks(False):
        with the_long_way():
            expected = tree_attention(**given)
        assert torch.equal(tree_attention(**given), expected)
    assert taken == [True]


def test_whoever_watches_sees_the_op_by_its_name(taken: list[bool]) -> None:
    given = made()
    expected = tree_attention(**given)
    names: list[str] = []

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kw: Any = None) -> Any:
            names.append(str(op))
            return op(*args, **(kw or {}))

    with Names():
        assert torch.equal(tree_attention(**given), expected)
    assert "sparrow.tree_attention.default" in names
    with FlopCounterMode(display=False) as flops:
        tree_attention(**given)
    assert flops.get_total_flops() > 0
    mapped = torch.func.vmap(lambda query: tree_attention(**given | {"query": query}))
    assert torch.equal(mapped(given["query"][None])[0], expected)
    with torch.profiler.profile() as profile:
        tree_attention(**given)
    assert any(event.key == "sparrow::tree_attention" for event in profile.key_averages())
    with torch.autocast("cpu", torch.bfloat16):
        assert tree_attention(**given).dtype == torch.bfloat16
    for name in ("query", "key_bias"):
        needy = given | {"key_bias": torch.zeros(1, 1, 20)}
        needy[name] = needy[name].clone().requires_grad_()
        with pytest.raises(NotImplementedError, match=f"tree_attention: {name} must not require"):
            tree_attention(**needy)
    compiled = torch.compile(lambda: tree_attention(**given), fullgraph=True, backend="eager")
    assert torch.equal(compiled(), expected)
    for backend in ("torch", "reference"):
        with env.backend(backend):
            torch.testing.assert_close(tree_attention(**given), expected)
    assert taken == [True] + [False] * (len(taken) - 1)
    with env.backend("native"):
        tree_attention(**given)
    assert taken[-1]
