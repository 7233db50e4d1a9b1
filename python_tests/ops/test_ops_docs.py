"""Every public op says what it takes and raises, and its `Equivalent to:` block runs."""

from __future__ import annotations

import doctest

import pytest
import torch

import sparrow_kernels
from sparrow_kernels.ops import env

FAMILIES = ("ops.tree", "ops.accept", "ops.gather", "ops.attention")
OPS = [name for name, home in sparrow_kernels._HOMES.items() if home in FAMILIES]


@pytest.mark.parametrize("name", OPS)
def test_docstring_has_its_parts(name: str) -> None:
    text = getattr(sparrow_kernels, name).__doc__
    for part in ("Args:", "Raises:", "ValueError", "Equivalent to:", "`[B,"):
        if part == "`[B," and name in ("topk_logprobs", "sample_tokens", "sample_logits"):
            part = "`["  # their leading dims are rows, not requests
        assert part in text, f"{name} has no {part}"


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", OPS)
def test_equivalent_runs(name: str, backend: str) -> None:
    public = {each: getattr(sparrow_kernels, each) for each in OPS}
    for kind in ("Acceptance", "AnchorIndex", "TreeLayout"):
        public[kind] = getattr(sparrow_kernels, kind)
    text = public[name].__doc__
    block = text[text.index("Equivalent to:") :]
    examples = doctest.DocTestParser().get_doctest(
        block, {"torch": torch} | public, name, filename=None, lineno=0
    )
    assert any(example.want for example in examples.examples), "the block compares nothing"
    torch.manual_seed(0)
    with env.backend(backend):
        report: list[str] = []
        outcome = doctest.DocTestRunner(verbose=False).run(examples, out=report.append)
    assert outcome.failed == 0, "".join(report)
