"""What tests and bench share: one rule for float results, poison for memory nobody may touch.

`assert_close` compares a result with a float64 one and allows twice the error that PyTorch makes
in the result's own dtype. `poison` fills memory that must not be read, `guard_rows` surrounds
buffers with rows that must not be written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

# The bit pattern that marks a guard or an unwritten integer; for floats it is a NaN by value.
_INTEGER_POISON = {
    torch.int8: -(2**7),
    torch.int16: -(2**15),
    torch.int32: -(2**31),
    torch.int64: -(2**63),
    torch.uint8: 0xA5,
}
_GUARD_ELEMENTS = 256


def poison_value(dtype: torch.dtype) -> float | int | bool:
    """What unwritten memory holds in tests: NaN, the lowest integer, or True."""
    if dtype.is_floating_point:
        return float("nan")
    return True if dtype == torch.bool else _INTEGER_POISON[dtype]


def poison(
    *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """A tensor of `shape` that holds nothing but poison: an output before the call."""
    return torch.full(shape, poison_value(dtype), dtype=dtype, device=device)


def is_poison(tensor: Tensor) -> Tensor:
    """`[...]` bool: which elements still hold the poison."""
    if tensor.dtype.is_floating_point:
        return tensor.isnan()
    return tensor == poison_value(tensor.dtype)


class GuardRows:
    """Hands out tensors that lie between two guards, and tells whether a guard was written."""

    def __init__(self) -> None:
        self._buffers: list[tuple[str, Tensor, Tensor]] = []

    def empty(
        self,
        *shape: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        name: str = "buffer",
    ) -> Tensor:
        """A poisoned contiguous tensor of `shape` with a guard before and after it."""
        elements = 1
        for size in shape:
            elements *= size
        whole = poison(elements + 2 * _GUARD_ELEMENTS, dtype=dtype, device=device)
        self._buffers.append((name, whole[:_GUARD_ELEMENTS], whole[-_GUARD_ELEMENTS:]))
        return whole[_GUARD_ELEMENTS : _GUARD_ELEMENTS + elements].view(shape)

    def copy(self, tensor: Tensor, name: str = "buffer") -> Tensor:
        """A contiguous copy of `tensor` between two guards."""
        inside = self.empty(*tensor.shape, dtype=tensor.dtype, device=tensor.device, name=name)
        return inside.copy_(tensor)

    def check(self) -> None:
        """Raise `AssertionError` if anything wrote before or after one of the buffers."""
        for name, before, after in self._buffers:
            for side, guard in (("before", before), ("after", after)):
                if not bool(is_poison(guard).all()):
                    raise AssertionError(f"{name}: something wrote {side} it")


@contextmanager
def guard_rows() -> Iterator[GuardRows]:
    """Buffers whose guards are checked when the block ends without another error."""
    guards = GuardRows()
    yield guards
    guards.check()


def assert_close(
    actual: Tensor,
    exact: Tensor,
    rounded: Tensor | None = None,
    *,
    name: str = "result",
    summands: float = 0.0,
) -> None:
    """Hold a float result to the policy: at most twice PyTorch's own error, plus rounding.

    Args:
        actual: what the kernel gave.
        exact: the same shape, computed in float64.
        rounded: the same computed by PyTorch in the dtype of `actual`; where left out, `exact`
            rounded to that dtype.
        name: what the message calls it.
        summands: the size of what was added up on the way, where a result can come out smaller
            than that: a log-sum-exp near 0 is rounded like the scores it was made of.

    With `noise` one rounding of the largest element (or of `summands`), the largest error of
    `actual` may be `2 * error(rounded) + 2 * noise`, and its relative RMS error
    `2 * (that of rounded) + 2 * eps`.
    Infinities and NaN must be where `exact` has them. Raises `AssertionError` that names the worst
    coordinate.
    """
    if actual.shape != exact.shape:
        raise AssertionError(f"{name}: shape {list(actual.shape)}, expected {list(exact.shape)}")
    if exact.dtype != torch.float64:
        raise TypeError(f"assert_close: exact must be float64, got {exact.dtype}")
    if rounded is None:
        rounded = exact.to(actual.dtype)
    elif rounded.dtype != actual.dtype:
        raise TypeError(f"assert_close: rounded must be {actual.dtype}, got {rounded.dtype}")
    eps = torch.finfo(actual.dtype).eps
    # Where they are together: what training gives is slow to bring from a GPU and to go through.
    device = actual.device if actual.device == exact.device else torch.device("cpu")
    got, exact = actual.detach().to(device).double(), exact.detach().to(device)
    _assert_same_specials(got, exact, name)
    finite = exact.isfinite()
    if not bool(finite.any()):
        return
    error = torch.where(finite, (got - exact).abs(), 0.0)
    admitted = torch.where(finite, (rounded.detach().to(device).double() - exact).abs(), 0.0)
    scale = torch.where(finite, exact, 0.0)
    bound = 2 * float(admitted.max()) + 2 * eps * max(float(scale.abs().max()), summands)
    if float(error.max()) > bound:
        raise AssertionError(_worst(name, error, got, exact, bound))
    size = max(_rms(scale), summands, torch.finfo(torch.float64).tiny)
    relative = _rms(error) / size
    relative_bound = 2 * _rms(admitted) / size
    if relative > relative_bound + 2 * eps:
        worst = _worst(name, error, got, exact, bound)
        raise AssertionError(
            f"{worst}; relative RMS error {relative:.3e} over {relative_bound + 2 * eps:.3e}"
        )


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _assert_same_specials(got: Tensor, exact: Tensor, name: str) -> None:
    """NaN and each infinity must stand in the same places."""
    differs = (got.isnan() != exact.isnan()) | (
        (got.isinf() | exact.isinf()) & (got != exact) & ~exact.isnan()
    )
    if bool(differs.any()):
        where = tuple(differs.nonzero()[0].tolist())
        raise AssertionError(
            f"{name}: at {where} got {float(got[where])}, expected {float(exact[where])}"
            f" ({int(differs.sum())} such places)"
        )


def _worst(name: str, error: Tensor, got: Tensor, exact: Tensor, bound: float) -> str:
    where: Sequence[int] = [int(i) for i in torch.unravel_index(error.argmax(), error.shape)]
    at = tuple(where)
    return (
        f"{name}: worst at {at}: got {float(got[at]):.9g}, expected {float(exact[at]):.9g},"
        f" error {float(error[at]):.3e}, admitted {bound:.3e}"
    )


def chain_parents(size: int) -> Tensor:
    """`[T]` int32 parents of a chain: every node has one child."""
    return torch.arange(-1, size - 1, dtype=torch.int32)


def star_parents(size: int) -> Tensor:
    """`[T]` int32 parents of a star: every node is a child of the root."""
    parents = torch.zeros(size, dtype=torch.int32)
    parents[0] = -1
    return parents


def random_parents(size: int, generator: torch.Generator | None = None) -> Tensor:
    """`[T]` int32 parents of a tree where each node hangs on a random earlier one."""
    share = torch.rand(size, generator=generator)
    parents = (share * torch.arange(size)).int()
    parents[0] = -1
    return parents
