"""Peers compute what we compute: each one that this machine can run, at shapes of a smoke run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bench_cases import CPU

import sparrow_kernels
from bench import gate, registry
from bench.case import Case, Way
from bench.cases.accept import AcceptTree
from bench.cases.tree import BuildTree
from bench.peers import trees
from bench.selection import Selection
from bench.shapes import tree_parents
from sparrow_kernels.integrations import sglang


def refusal(case: Case, way: Way) -> str | None:
    with torch.set_grad_enabled(getattr(case, "passes", "forward") != "forward"):
        return gate.refusal(case, way, CPU, gate.expected(case, CPU))


def eager() -> Iterator[Any]:
    for case in registry.cases(Selection("cpu", "smoke")):
        for way in case.peers(CPU):
            if way.unavailable is None and not way.compiles:
                yield pytest.param(case, way, id=f"{case.op}-{way.name}")


@pytest.mark.parametrize(("case", "way"), list(eager()))
def test_a_peer_passes_the_gate(case: Case, way: Way) -> None:
    with sparrow_kernels.checks(False):
        assert refusal(case, way) is None


def test_every_peer_is_tried_or_says_why_not() -> None:
    for case in registry.cases(Selection("cpu", "smoke")):
        for way in case.peers(CPU):
            assert not way.is_ours
            assert way.unavailable is None or len(way.unavailable) > 5


@pytest.fixture
def ours_as_sgl_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our functions of SGLang's signatures in its place: its encoding is what is tested."""
    monkeypatch.setattr(trees, "_sgl_kernel", lambda: sglang)


@pytest.mark.usefixtures("ours_as_sgl_kernel")
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("nodes", [2, 8, 30, 64])
def test_sgl_kernels_encoding(nodes: int, batch: int) -> None:
    built = BuildTree(nodes=nodes, batch=batch)
    assert refusal(built, trees.sgl_build_tree()) is None
    walked = AcceptTree(nodes=nodes, batch=batch)
    assert refusal(walked, trees.sgl_accept_tree()) is None


@pytest.mark.usefixtures("ours_as_sgl_kernel")
def test_sgl_kernels_results_stand_a_second_call() -> None:
    """What is timed is called again and again on the same buffers."""
    for case, way in (
        (BuildTree(nodes=12), trees.sgl_build_tree()),
        (AcceptTree(nodes=12), trees.sgl_accept_tree()),
    ):
        arguments = case.arguments(CPU, gate._SEED)
        call = way.prepare(arguments)
        call()
        gate.compare(way.as_ours(arguments, call()), gate.expected(case, CPU))


def test_sgl_kernel_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "_sgl_kernel", lambda: "sgl_kernel cannot be imported: Reason")
    assert trees.sgl_build_tree().unavailable == "sgl_kernel cannot be imported: Reason"


def test_a_peer_that_is_wrong_is_refused() -> None:
    """The comparison has teeth for every kind of result: planted in a peer of each op."""
    for case in registry.cases(Selection("cpu", "smoke")):
        ways = [way for way in case.peers(CPU) if way.unavailable is None and not way.compiles]
        for way in ways[:1]:
            assert refusal(case, way._replace(as_ours=_spoiled)) is not None, case.op


def _spoiled(arguments: dict[str, Any], result: Any) -> Any:
    """One element of the first result is another, or of what was written in place."""
    written = result if result is not None else arguments["key_cache"]
    tensors = [written] if isinstance(written, torch.Tensor) else list(written)
    first = next(tensor for tensor in tensors if isinstance(tensor, torch.Tensor))
    # Of a cache, the last row: the tree's, which every append writes.
    place = (..., -1) if first.dim() > 1 else -1
    with torch.no_grad():
        first[place] += 1
    return result


def test_the_trees_of_cases_are_as_deep_as_they_say() -> None:
    assert tree_parents(5) == [-1, 0, 0, 0, 1]
