"""Launches the kernel that says what each committed slot weighs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.triton.configurations import (
    INTERPRETER,
    UNFENCED,
    padded_head_dim,
)
from sparrow_kernels.ops.attention.triton.launch import current
from sparrow_kernels.ops.attention.triton.mass import mass_kernel
from sparrow_kernels.ops.attention.triton.tree_launch import device_facts, tree_attention
from sparrow_kernels.ops.pages import num_slots


class Tiles(NamedTuple):
    """How a program is cut: rows and slots of a product."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def tiles(arch: int, dtype: torch.dtype, head_dim: int) -> Tiles:
    """Those of a call; without fences, of two warps, for which no warpgroup's product is made."""
    if arch == INTERPRETER:
        return Tiles(64, 128, 4, 1)
    width = padded_head_dim(head_dim)
    if dtype.itemsize == 4:
        return Tiles(16, 32 if width <= 128 else 16, 4, 3)
    if arch == UNFENCED:
        return Tiles(32, 32, 2, 3)
    return Tiles(64, 64, 4, 3) if width <= 128 else Tiles(32, 64, 4, 3)


def attention_mass(
    query: Tensor,
    key: Tensor,
    prefix_lens: Tensor,
    scale: float,
    block_table: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """See `sparrow_kernels.attention_mass`."""
    batch, heads, rows, head_dim = query.shape
    kv_heads, slots = key.shape[1], num_slots(key, block_table)
    mass = torch.empty((batch, kv_heads, slots), dtype=torch.float32, device=query.device)
    if query.numel() == 0 or key.numel() == 0 or slots == 0:
        return mass.zero_()
    if lse is None:
        no_words = torch.zeros((batch, rows, 1), dtype=torch.int64, device=query.device)
        lse = tree_attention(
            query, key, key, no_words, prefix_lens, *[None] * 6, scale, None, block_table
        )[1]
    cut = tiles(device_facts(query.device).arch, query.dtype, head_dim)
    slot_tiles = -(-slots // cut.block_n)
    with current(query.device):
        mass_kernel[(slot_tiles * kv_heads * batch,)](
            query, key, prefix_lens, lse, block_table, mass, *query.stride()[:3],
            *key.stride()[:3], *lse.stride()[:2],
            0 if block_table is None else block_table.stride(0), scale * math.log2(math.e),
            rows, slots, key.shape[0], slot_tiles, kv_heads, heads // kv_heads, head_dim,
            padded_head_dim(head_dim), cut.block_m, cut.block_n,
            0 if block_table is None else key.shape[2],
            num_warps=cut.num_warps, num_stages=cut.num_stages,
        )  # fmt: skip
    return mass
