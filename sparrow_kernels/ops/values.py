"""How a value check says which value is wrong, and where.

These run inside an op, on real tensors, and only where `env.are_checked`: they may sync.
"""

from __future__ import annotations

from torch import Tensor

from sparrow_kernels.ops import errors


def refuse_first(op: str, argument: str, must_be: str, value: Tensor, bad: Tensor) -> None:
    """Raise `ValueError` for the first element of `value` where `bad` holds; pass if none does."""
    if not bool(bad.any()):
        return
    where = tuple(bad.nonzero()[0].tolist())
    place = "".join(f"[{index}]" for index in where)
    errors.refuse(op, argument, must_be, f"{argument}{place} = {value[where].item()}")
