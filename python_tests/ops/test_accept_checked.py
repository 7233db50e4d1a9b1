"""Checks within the native sampling ops: they refuse what the checks refuse, in the same words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sparrow_kernels as sk
from sparrow_kernels.ops import registry

VOCAB = 1030  # a part and a rest
INF, NAN = torch.inf, torch.nan


def arguments(op: str, dtype: torch.dtype) -> dict[str, Any]:
    """Sound ones, in which a value may be broken by its name."""
    torch.manual_seed(0)
    logits = torch.randn(2, 5, VOCAB)
    if op == "topk_logprobs":
        return {"logits": logits[0].to(dtype), "k": 3}
    if op.startswith("sample"):
        name = op.removeprefix("sample_").replace("tokens", "probs")
        rows = logits[0].softmax(-1) if name == "probs" else logits[0].to(dtype)
        return {name: rows, "uniform": torch.rand(5)}
    parent = torch.tensor([[-1, 0, 0, 1, 1]], dtype=torch.int32).repeat(2, 1)
    layout = sk.build_tree(parent, torch.tensor([5, 4], dtype=torch.int32))
    ends = "logits" if op.endswith("logits") else "probs"
    target, draft = logits, logits.flip(0)
    rows = [x.softmax(-1) if ends == "probs" else x.to(dtype) for x in (target, draft)]
    return {
        "tokens": torch.randint(VOCAB, (2, 5)), "layout": layout,
        f"target_{ends}": rows[0], f"draft_{ends}": rows[1],
        "uniform": torch.rand(2, 5), "bonus_uniform": torch.rand(2), "max_path": 3,
    }  # fmt: skip


def tensor(given: dict[str, Any], name: str) -> Tensor:
    layout = given.get("layout")
    return given[name] if name in given else getattr(layout, name)


PROBS = [((1, 1029), NAN), ((0, 3), -0.5), ((2, 1024), INF), ((3,), 0.0)]
LOGITS = [((1, 1029), NAN), ((0, 3), INF), ((2, 1024), NAN), ((3,), -INF)]
COINS = [((1,), 1.5), ((0,), -0.1), ((2,), NAN)]
TREE: dict[str, list[tuple[tuple[int, ...], float]]] = {
    "tokens": [((0, 4), VOCAB), ((1, 1), -1)],
    "uniform": [((0, 4), 1.5), ((1, 2), NAN)],
    "bonus_uniform": [((1,), -0.5)],
    "depth": [((1, 0), 1), ((0, 0), -2)],
    "first_child": [((0, 1), 1), ((1, 3), 5), ((0, 2), -2)],
    "next_sibling": [((0, 1), 0), ((1, 1), 5)],
}
BREAKS: dict[str, dict[str, list[tuple[tuple[int, ...], float]]]] = {
    "topk_logprobs": {"logits": LOGITS},
    "sample_tokens": {"probs": PROBS, "uniform": COINS},
    "sample_logits": {"logits": LOGITS, "uniform": COINS},
    "accept_tree_residual": TREE | {
        "target_probs": [((1, *at), value) for at, value in PROBS],
        "draft_probs": [((0, 0, 1029), NAN), ((1, 1), 0.0)],
    },
    "accept_tree_residual_logits": TREE | {
        "target_logits": [((1, *at), value) for at, value in LOGITS],
        "draft_logits": [((0, 0, 1029), NAN), ((1, 1), -INF)],
    },
}  # fmt: skip
# Padding, and what no walk reads of a leaf, may hold anything.
UNREAD = {
    "uniform": ((1, 4), NAN), "tokens": ((1, 4), -7),
    "target": ((1, 4), NAN), "draft": ((0, 3), NAN),
}  # fmt: skip


def refusal(call: Callable[..., object], given: dict[str, Any]) -> str | None:
    try:
        call(**given)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("op", BREAKS)
def test_refuses_as_the_definition_does(op: str) -> None:
    """Each value broken in turn; the reference knows the check alone."""
    call = getattr(sk, op)
    has_dtypes = op == "topk_logprobs" or op.endswith("logits")
    dtypes = (torch.float32, torch.float16, torch.bfloat16) if has_dtypes else (torch.float32,)
    for dtype in dtypes:
        for name, cases in BREAKS[op].items():
            for at, value in cases:
                given = arguments(op, dtype)
                tensor(given, name)[at] = value
                with sk.checks(True):
                    said = refusal(call, given)
                    with sk.backend("reference"):
                        assert said == refusal(call, given) and said is not None, (name, at, value)
                    assert name in said


@pytest.mark.parametrize("op", BREAKS)
def test_what_is_sound_costs_no_check(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    defined = registry.defined_ops()[op]
    if defined.unavailable("native") is not None:
        pytest.skip("no native library")
    given = arguments(op, torch.float32)
    for name, (at, value) in UNREAD.items():
        for argument in given:
            if op.startswith("accept") and argument.startswith(name):
                given[argument][at] = value
    with sk.checks(True), sk.backend("reference"):
        assert refusal(getattr(sk, op), given) is None
    monkeypatch.setattr(defined, "check", lambda *args: pytest.fail("checked"))
    with sk.checks(True):
        getattr(sk, op)(**given)
