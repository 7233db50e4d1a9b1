"""`backend`, `checks` and `values_are_checked` where a function is compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sparrow_kernels as sk
from sparrow_kernels.ops import registry


def with_a_backend(x: Tensor) -> Tensor:
    with sk.backend("reference"):
        return x + 1


def with_checks(x: Tensor) -> Tensor:
    with sk.checks(False):
        return x + 1


def asking(x: Tensor) -> Tensor:
    return x + 1 if sk.values_are_checked("cpu") else x + 1


FUNCTIONS = {"backend": with_a_backend, "checks": with_checks, "values_are_checked": asking}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_has_no_room_for_a_switch(name: str) -> None:
    function: Callable[[Tensor], Tensor] = FUNCTIONS[name]
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    message = f"{name}: must be used outside the compiled function, around its call"
    with pytest.raises(Exception, match=message):
        compiled(torch.ones(2))
    torch._dynamo.reset()
    # Where a graph may end, it ends there.
    assert torch.compile(function, backend="eager")(torch.ones(2)).tolist() == [2, 2]


def test_a_switch_around_the_call_is_followed() -> None:
    bad = torch.tensor([[-1, 5]], dtype=torch.int32)
    compiled = torch.compile(lambda parent: sk.build_tree(parent).status, backend="eager")
    with sk.checks(False):
        assert compiled(bad).tolist() == [2]
    with sk.checks(True), pytest.raises(ValueError, match="build_tree: parent"):
        compiled(bad)


def test_on_a_gpu_the_definition_is_taken_where_it_is_asked_for_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A silent fall back to it would look like a slow GPU."""
    op = registry.defined_ops()["build_tree"]
    reference = op.implementations["reference"]
    monkeypatch.setattr(op, "implementations", {"reference": reference})
    message = "no fast backend takes this call on cuda: .*SPARROW_BACKEND=reference is the slow way"
    with pytest.raises(NotImplementedError, match=message):
        op._choose("cuda", ())
    with sk.backend("reference"):
        assert op._choose("cuda", ()) is reference
    assert op._choose("cpu", ()) is reference
