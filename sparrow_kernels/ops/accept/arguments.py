"""Shape and dtype checks that the acceptance ops and the commit share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparrow_kernels.ops.errors import (
    Size,
    check_integer,
    check_number,
    check_rows_are_dense,
    check_tensor,
    refuse,
    refuse_type,
)
from sparrow_kernels.ops.types import TreeLayout

_FIELDS = (
    ("parent", "B T", torch.int32),
    ("depth", "B T", torch.int32),
    ("ancestors", "B T W", torch.int64),
    ("first_child", "B T", torch.int32),
    ("next_sibling", "B T", torch.int32),
)
LOGIT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Links = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def check_row(
    op: str,
    argument: str,
    value: object,
    letters: str,
    dtype: torch.dtype | Sequence[torch.dtype],
    sizes: dict[str, Size],
    device: torch.device | None = None,
) -> Tensor:
    """`check_tensor`, and the last dim is contiguous."""
    tensor = check_tensor(op, argument, value, letters, dtype, sizes, device)
    check_rows_are_dense(op, argument, tensor)
    return tensor


def check_drafted(
    op: str, tokens: Tensor, layout: TreeLayout, max_path: int, sizes: dict[str, Size]
) -> Links:
    """Check `tokens`, `layout` and `max_path` together and return the layout without its status."""
    check_row(op, "tokens", tokens, "B T", torch.int64, sizes)
    if not isinstance(layout, TreeLayout):
        refuse_type(op, "layout", "a TreeLayout", type(layout).__name__)
    if sizes["T"] < 1:
        refuse(op, "tokens", "[B, T] with T >= 1", list(tokens.shape))
    sizes["W"] = (sizes["T"] + 63) // 64
    for (field, letters, dtype), tensor in zip(_FIELDS, layout, strict=False):
        check_row(op, f"layout.{field}", tensor, letters, dtype, sizes, tokens.device)
    check_integer(op, "max_path", max_path)
    if max_path < 1:
        refuse(op, "max_path", "at least 1 (the root)", max_path)
    return layout[:5]


def check_temperature(op: str, argument: str, temperature: float) -> None:
    """A temperature is a positive number; greedy decoding has none."""
    check_number(op, argument, temperature)
    if not 0 < temperature < math.inf:
        refuse(op, argument, "above 0 and finite", temperature, "greedy is argmax")
