"""What `[B, T, H, D]` looks like: heads come before rows here, as in PyTorch's own attention.

Asked only where the arguments do not fit: without the hint, the error would name a sound one.
"""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor

from sparrow_kernels.ops.errors import refuse


def refuse_swapped_tree(op: str, query: object, key: object, ancestors: object) -> None:
    """Refuse a query whose second dim is what the words call rows, and a key that has its heads
    in the third."""
    if not (isinstance(query, Tensor) and query.dim() == 4):
        return
    if isinstance(ancestors, Tensor) and ancestors.dim() == 3:
        _, second, third, _ = query.shape
        if second == ancestors.shape[1] != third:
            _refuse(op, "query", "[B, Hq, T, D]", query)
    if isinstance(key, Tensor) and key.dim() == 4 and key.shape[1] and key.shape[2]:
        heads = query.shape[1]
        if heads % key.shape[1] != 0 and heads % key.shape[2] == 0:
            _refuse(op, "key", "[B, Hkv, N, D]", key)


def refuse_swapped_sequence(op: str, key: Tensor, anchor_mask: object) -> None:
    """Refuse a key whose second dim is the length of the anchor mask."""
    if isinstance(anchor_mask, Tensor) and anchor_mask.dim() == 2:
        _, second, third, _ = key.shape
        if second == anchor_mask.shape[1] != third:
            _refuse(op, "key", "[B, Hkv, S, D]", key, ", as query and value may be")


def _refuse(op: str, argument: str, letters: str, value: Tensor, others: str = "") -> NoReturn:
    swapped = list(value.transpose(1, 2).shape)
    hint = f"heads and rows look swapped{others}: pass {argument}.transpose(1, 2)"
    refuse(op, argument, f"{letters} = {swapped}", list(value.shape), hint)
