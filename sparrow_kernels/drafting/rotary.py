"""The draft's rotary embedding: rotate-half over a head, one position a row or three (M-RoPE)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rotary(
    positions: Tensor,
    head_dim: int,
    theta: float,
    dtype: torch.dtype,
    sections: Sequence[int] | None = None,
    interleaved: bool = False,
) -> tuple[Tensor, Tensor]:
    """cos and sin `[..., R, D]` of rows at `positions`.

    A text token has one position on all three axes of M-RoPE, so a draft that reads text alone
    needs `[..., R]`. Rows of a clip, in drafts that see it, have three.

    Args:
        positions: `[..., R]`, or `[3, R]` with `sections`: time, height, width.
        theta: the base.
        sections: how many frequencies each axis has, D / 2 in all.
        interleaved: the axes' frequencies alternate (Qwen3-VL), else they follow one another.
    """
    even = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    inverse = theta ** (-even / head_dim)
    if sections is None:
        angles = positions[..., None].float() * inverse
    else:
        axis = torch.tensor(_axes(sections, interleaved), device=positions.device)
        angles = positions.float()[axis].T * inverse
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _axes(sections: Sequence[int], interleaved: bool) -> list[int]:
    """The axis that each frequency follows."""
    if not interleaved:
        return [axis for axis, count in enumerate(sections) for _ in range(count)]
    axes = [0] * sum(sections)
    for axis in (1, 2):
        for place in range(axis, 3 * sections[axis], 3):
            axes[place] = axis
    return axes


def rotary_table(
    positions: int, head_dim: int, theta: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin `[positions, D]` for positions 0, 1, 2 …"""
    return rotary(torch.arange(positions, device=device), head_dim, theta, dtype)


def rotate(value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate-half rotary embedding of `[B, heads, R, D]` by cos and sin `[..., R, D]`."""
    half = value.shape[-1] // 2
    turned = torch.cat([-value[..., half:], value[..., :half]], dim=-1)
    return value * cos + turned * sin
