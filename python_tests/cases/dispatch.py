"""What every op must pass as a PyTorch operator: opcheck, and one graph for all integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sparrow_kernels.ops import env
from sparrow_kernels.ops.registry import Op


def opcheck(op: Op, backend: str, *arguments: Any) -> None:
    """All of opcheck; of a call with float8, which PyTorch cannot compare, what does not try to."""
    checks = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    tensors = (each for each in tree_leaves(arguments) if isinstance(each, Tensor))
    if all(tensor.dtype != torch.float8_e4m3fn for tensor in tensors):
        checks.append("test_schema")
    with env.backend(backend):
        torch.library.opcheck(op.call, arguments, test_utils=checks)


def compiles_once(
    function: Callable[..., Any], calls: Iterable[Callable[[], Sequence[Any]]]
) -> None:
    """`function` compiles without a break, to the eager results, once for all calls.

    Each element of `calls` makes fresh arguments, so that ops in place start from the same.
    """
    # A second to import, for processes that run a few tests without it.
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
    for make in calls:
        expected_arguments, arguments = make(), make()
        expected, got = function(*expected_arguments), compiled(*arguments)
        _same(got, expected)
        _same(arguments, expected_arguments)
    assert counter.frame_count == 1, f"compiled {counter.frame_count} times"


def _same(got: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(got, expected)
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(got, expected, strict=True):
            _same(one, other)
    else:
        assert got == expected
