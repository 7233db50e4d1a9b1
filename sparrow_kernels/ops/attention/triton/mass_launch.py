"""Launches the kernels that say what each committed slot weighs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sparrow_kernels.ops.attention.triton.configurations import (
    INTERPRETER,
    UNFENCED,
    padded_head_dim,
)
from sparrow_kernels.ops.attention.triton.launch import Grid, aligned, current, launch
from sparrow_kernels.ops.attention.triton.mass import join_kernel, lse_kernel, mass_kernel
from sparrow_kernels.ops.attention.triton.tree_launch import device_facts, tree_attention
from sparrow_kernels.ops.pages import num_slots

JOIN_ROWS = 128
"""Of a program that joins splits."""
_MOST_SPLITS = 64


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
    return Tiles(64, 128, 4, 3) if width <= 128 else Tiles(32, 64, 4, 3)


class LseTiles(NamedTuple):
    """The same of the log-sum-exps, whose queries stay while keys come."""

    cut: Tiles
    resident: int
    """Programs that run on a multiprocessor at once, by what they take."""


def lse_tiles(arch: int, dtype: torch.dtype, head_dim: int, paged: bool) -> LseTiles | None:
    """None: queries would not stay in registers, so tree attention says what the lse are."""
    if arch == INTERPRETER:
        return LseTiles(Tiles(64, 128, 4, 1), 2)
    if dtype.itemsize == 4:
        return None
    stages = 5 if paged else 3  # pages come before the keys
    if arch == UNFENCED:
        return LseTiles(Tiles(32, 32, 2, stages), 6)
    width = padded_head_dim(head_dim)
    if width > 128:
        return LseTiles(Tiles(64, 64, 8, stages), 1)
    small = 6 if arch == 90 else 3
    usual = 3 if arch == 90 or paged else 2
    return LseTiles(Tiles(64, 64, 4, stages), small if width <= 64 else usual)


class _Call(NamedTuple):
    """What all kernels of a call are launched with; queries `[B, Hkv, G * T, D]` in memory."""

    query: Tensor
    key: Tensor
    prefix_lens: Tensor
    block_table: Tensor | None
    scale: float

    @property
    def num_rows(self) -> int:
        """Of a KV head and request."""
        return self.query.shape[1] // self.key.shape[1] * self.query.shape[2]

    @property
    def places(self) -> int:
        """KV heads of all requests."""
        return self.query.shape[0] * self.key.shape[1]

    def key_of(self, *more: Any) -> tuple[Any, ...]:
        """What a launch depends on."""
        table = self.block_table
        return (
            self.query.device, self.query.dtype, self.query.shape, self.key.shape,
            self.key.stride(), None if table is None else (table.shape, table.stride()), self.scale,
            aligned(self.query, self.key), *more,
        )  # fmt: skip

    def key_strides(self) -> tuple[int, ...]:
        """Of the keys and the table."""
        return *self.key.stride()[:3], 0 if self.block_table is None else self.block_table.stride(0)

    def head_dims(self) -> tuple[int, int]:
        """As it is, and as it is padded."""
        return self.query.shape[3], padded_head_dim(self.query.shape[3])

    def page(self) -> int:
        """Slots of a page, 0 without pages."""
        return 0 if self.block_table is None else self.key.shape[2]


def attention_mass(
    query: Tensor,
    key: Tensor,
    prefix_lens: Tensor,
    scale: float,
    block_table: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """See `sparrow_kernels.attention_mass`. Queries, or their lse, that are not contiguous are
    copied, which is little beside a product of each with every slot."""
    kv_heads, slots = key.shape[1], num_slots(key, block_table)
    shape = (query.shape[0], kv_heads, slots)
    mass = torch.empty(shape, dtype=torch.float32, device=query.device)
    if query.numel() == 0 or key.numel() == 0 or slots == 0:
        return mass.zero_()
    call = _Call(query.contiguous(), key, prefix_lens, block_table, scale)
    cut = tiles(device_facts(query.device).arch, query.dtype, query.shape[3])
    slot_tiles = -(-slots // cut.block_n)

    def prepare() -> tuple[Grid, tuple[Any, ...], dict[str, Any]]:
        arguments = (
            *call.key_strides(), scale * math.log2(math.e), call.num_rows, slots, key.shape[0],
            slot_tiles, kv_heads, *call.head_dims(), cut.block_m, cut.block_n, call.page(),
        )  # fmt: skip
        return (slot_tiles * call.places, 1, 1), arguments, _options(cut)

    with current(query.device):
        lse = _log_sum_exps(call, slots) if lse is None else lse.contiguous()
        pointers = (call.query, key, prefix_lens, lse, block_table, mass)
        launch(mass_kernel, call.key_of(), pointers, prepare)
    return mass


def _log_sum_exps(call: _Call, slots: int) -> Tensor:
    """`[B * Hkv, G * T]` float32, natural; -inf of a request without committed slots."""
    device = call.query.device
    facts = device_facts(device)
    paged = call.block_table is not None
    found = lse_tiles(facts.arch, call.query.dtype, call.query.shape[3], paged)
    if found is None:
        return _by_tree_attention(call)
    cut = found.cut
    row_tiles = -(-call.num_rows // cut.block_m)
    programs = call.places * row_tiles
    at_once = found.resident * facts.multiprocessors
    num_splits = max(1, min(_MOST_SPLITS, at_once // programs, slots // cut.block_n))
    shape = (call.places, num_splits, call.num_rows)
    parts = torch.empty(shape, dtype=torch.float32, device=device)
    lse = torch.empty((call.places, call.num_rows), dtype=torch.float32, device=device)

    def prepare() -> tuple[Grid, tuple[Any, ...], dict[str, Any]]:
        scale = call.scale
        arguments = (
            *call.key_strides(), abs(scale) * math.log2(math.e) if scale else 1.0, call.num_rows,
            slots, call.key.shape[0], row_tiles, call.key.shape[1], num_splits,
            (scale > 0) - (scale < 0), *call.head_dims(), cut.block_m, cut.block_n, call.page(),
        )  # fmt: skip
        return (programs * num_splits, 1, 1), arguments, _options(cut)

    def prepare_join() -> tuple[Grid, tuple[Any, ...], dict[str, Any]]:
        joins = -(-call.num_rows // JOIN_ROWS)
        arguments = (
            call.num_rows, joins, num_splits, JOIN_ROWS, triton.next_power_of_2(num_splits),
        )  # fmt: skip
        return (joins * call.places, 1, 1), arguments, {"num_warps": 4}

    pointers = (call.query, call.key, call.prefix_lens, call.block_table, parts)
    launch(lse_kernel, call.key_of(num_splits), pointers, prepare)
    launch(join_kernel, (device, shape), (parts, lse), prepare_join)
    return lse


def _by_tree_attention(call: _Call) -> Tensor:
    """Of a tree without nodes."""
    batch, _, rows, _ = call.query.shape
    no_words = torch.zeros((batch, rows, 1), dtype=torch.int64, device=call.query.device)
    arguments = (call.query, call.key, call.key, no_words, call.prefix_lens)
    return tree_attention(*arguments, *[None] * 6, call.scale, None, call.block_table)[1]


def _options(cut: Tiles) -> dict[str, Any]:
    return {"num_warps": cut.num_warps, "num_stages": cut.num_stages}
