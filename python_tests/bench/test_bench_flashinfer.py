"""The calls of FlashInfer, on its stand-in: layouts, pages and masks mean what ours do."""

from __future__ import annotations

import sys

import flashinfer_stand_in
import pytest
import torch
from bench_cases import CPU

from bench import gate
from bench.cases.attention import TreeAttention
from bench.peers import flashinfer


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flashinfer, "library", lambda: flashinfer_stand_in)
    monkeypatch.setattr(flashinfer, "missing", lambda device: None)
    monkeypatch.setattr(flashinfer, "_has_compiled", lambda: True)
    monkeypatch.setattr(flashinfer, "HEAD_DIMS", (16,))


def refusals(case: TreeAttention) -> dict[str, str | None]:
    wanted = gate.expected(case, CPU)
    ways = flashinfer.tree_attention(CPU, case.prefix, nodes=case.nodes, batch=case.batch)
    return {way.name: gate.refusal(case, way, CPU, wanted) for way in ways}


def tree(prefix: int, nodes: int, batch: int, model: str = "tiny") -> TreeAttention:
    return TreeAttention(torch.bfloat16, model, prefix, nodes, batch)


@pytest.mark.parametrize("prefix", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("nodes", [8, 30, 70])
def test_trees_are_attended_as_ours(stand_in: None, prefix: int, nodes: int) -> None:
    single = refusals(tree(prefix, nodes, 1))
    assert set(single) == {
        "flashinfer, packed mask",
        "flashinfer, packed mask, single request",
        "flashinfer, cascade + merge",
    }
    several = refusals(tree(prefix, nodes, 3))
    assert set(several) == {"flashinfer, packed mask", "flashinfer, cascade + merge"}
    assert not any(single.values()) and not any(several.values()), (single, several)


@pytest.mark.parametrize(("prefix", "batch"), [(63, 1), (64, 3), (200, 2)])
def test_one_row_is_decoded_as_ours(stand_in: None, prefix: int, batch: int) -> None:
    found = refusals(tree(prefix, 1, batch))
    assert found == {
        "flashinfer, decode": None,
        "flashinfer, decode, tensor cores": None,
        "flashinfer, cascade + merge": None,
    }


def test_a_group_without_a_decode_kernel_is_a_reason(
    stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flashinfer, "HEAD_DIMS", (128,))
    found = refusals(tree(70, 1, 1, model="qwen2.5-vl-7b"))
    assert found["flashinfer, decode"] == "RuntimeError: Unsupported group_size: 7"
    assert found["flashinfer, decode, tensor cores"] is None


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (TreeAttention(torch.float32, "tiny", 70, 8), "no kernel for torch.float32"),
        (tree(70, 8, 1, model="embedded"), "no kernel for head dim 32"),
    ],
)
def test_what_it_has_no_kernel_for_is_refused_before_it_compiles(
    stand_in: None, case: TreeAttention, reason: str
) -> None:
    with pytest.raises(NotImplementedError, match=reason):
        refusals(case)


def test_the_cache_is_not_copied(stand_in: None) -> None:
    case = tree(70, 8, 2)
    arguments = case.arguments(CPU, 0)
    ways = flashinfer.tree_attention(CPU, case.prefix, nodes=case.nodes, batch=case.batch)
    calls = {way.name: way.prepare(arguments) for way in ways}
    for name, call in calls.items():
        before = call().clone()
        arguments["value"] *= 2
        torch.testing.assert_close(call(), before * 2, msg=name)


def test_absence_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    flashinfer.library.cache_clear()
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    reason = flashinfer.missing(torch.device("cuda", 0))
    flashinfer.library.cache_clear()
    assert reason is not None and reason.startswith("flashinfer cannot be imported: ")
    assert {way.unavailable for way in tree(70, 8, 1).peers(CPU) if "flashinfer" in way.name} == {
        "flashinfer needs a GPU"
    }
