"""No time is taken of a wrong result: every way, ours or a peer's, passes here first.

Integers must be equal; floats are held to `sparrow_kernels.testing.assert_close` against the plain
definition in float64. Each way gets fresh arguments: what one writes in place, another never sees.
"""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.case import Case, Way, tensors_of
from sparrow_kernels.testing import assert_close

_SEED = 20_001
"""Not a seed that is timed: a right answer must not depend on having been seen."""


class Expected(NamedTuple):
    """What a case must give."""

    exact: Any
    rounded: Any
    summands: float = 0.0


def expected(case: Case, device: torch.device) -> Expected:
    """The outcome in float64, and in the case's own dtype, by the plain definition."""
    return Expected(
        case.exact(case.arguments(device, _SEED)),
        case.rounded(case.arguments(device, _SEED)),
        case.summands(),
    )


def refusal(case: Case, way: Way, device: torch.device, wanted: Expected) -> str | None:
    """Why this way's times may not be taken, None if its outcome is right.

    Raises:
        NotImplementedError: it says itself that it does not take this case.
    """
    arguments = case.arguments(device, _SEED)
    try:
        with way.chosen():
            result = way.prepare(arguments)()
            outcome = case.outcome(arguments, way.as_ours(arguments, result))
        compare(outcome, wanted)
    except AssertionError as error:
        return f"wrong result: {error}"
    except NotImplementedError:
        raise
    except Exception as error:  # a peer may fail in any manner; that is its row's reason
        return in_a_line(error)
    return None


def compare(outcome: Any, wanted: Expected) -> None:
    """Raise `AssertionError` where `outcome` is not `wanted`."""
    found, exact, rounded = map(tensors_of, (outcome, wanted.exact, wanted.rounded))
    if len(found) != len(exact):
        raise AssertionError(f"{len(found)} tensors, expected {len(exact)}")
    for place, tensors in enumerate(zip(found, exact, rounded, strict=True)):
        _compare(f"result {place}", *tensors, wanted.summands)


def _compare(name: str, found: Tensor, exact: Tensor, rounded: Tensor, summands: float) -> None:
    if exact.dtype.is_floating_point:
        # A peer may keep a log-sum-exp or a sum in another precision: its own is what counts.
        rounded = rounded.to(found.dtype)
        assert_close(found, exact.double(), rounded, name=name, summands=summands)
    elif found.shape != exact.shape or not torch.equal(found.cpu(), exact.cpu()):
        raise AssertionError(f"{name}: integers differ")


def in_a_line(error: Exception) -> str:
    """What an exception says, short enough for a table."""
    last = traceback.format_exception_only(error)[-1]
    return " ".join(last.split())[:300]
