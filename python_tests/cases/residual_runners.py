"""Who answers when the residual rule is proved: each backend, and both forms of the op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from emulation import load_emulated

from sparrow_kernels import Acceptance, accept_tree_residual, accept_tree_residual_logits
from sparrow_kernels.ops import env, native

RUNNERS = [
    "reference",
    *(() if native.unavailable() else ("native", "emulated")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
each_runner = pytest.mark.parametrize("runner", RUNNERS)
Runner = Callable[..., Acceptance]


def runs_by(runner: str) -> Runner:
    """`accept_tree_residual` by keyword, on CPU tensors whoever computes."""

    def run(**arguments: Any) -> Acceptance:
        if runner == "emulated":
            load_emulated()
            return Acceptance(*_direct(torch.ops.sparrow_emulated, **arguments))
        if runner == "cuda":
            arguments = {name: _moved(value) for name, value in arguments.items()}
            return Acceptance(*(result.cpu() for result in accept_tree_residual(**arguments)))
        with env.backend(runner):
            return accept_tree_residual(**arguments)

    return run


def logits_run_by(runner: str, temperature: float, draft_temperature: float) -> Runner:
    """The same from logits whose softmaxes at these temperatures are the distributions."""

    def run(target_probs: Any, draft_probs: Any, **arguments: Any) -> Acceptance:
        arguments |= {
            "target_logits": target_probs.double().log().mul(temperature).float(),
            "draft_logits": draft_probs.double().log().mul(draft_temperature).float(),
        }
        temperatures = {"temperature": temperature, "draft_temperature": draft_temperature}
        if runner == "emulated":
            load_emulated()
            results = _direct(torch.ops.sparrow_emulated, **arguments, **temperatures)
            return Acceptance(*results)
        if runner == "cuda":
            arguments = {name: _moved(value) for name, value in arguments.items()}
            results = accept_tree_residual_logits(**arguments, **temperatures)
            return Acceptance(*(result.cpu() for result in results))
        with env.backend(runner):
            return accept_tree_residual_logits(**arguments, **temperatures)

    return run


def _direct(ops: Any, tokens: Any, layout: Any, **rest: Any) -> Any:
    form = "logits" if "target_logits" in rest else "probs"
    op = ops.accept_tree_residual_logits if form == "logits" else ops.accept_tree_residual
    order = [f"target_{form}", f"draft_{form}", "uniform", "bonus_uniform", "max_path"]
    order += ["temperature", "draft_temperature"] if form == "logits" else []
    return op(tokens, *layout[:5], *(rest[name] for name in order))


def _moved(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cuda()
    if isinstance(value, tuple):
        return type(value)(*(field.cuda() for field in value))
    return value
