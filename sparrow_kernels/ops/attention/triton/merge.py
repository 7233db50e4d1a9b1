"""Joins attention over disjoint sets of slots: the splits of a tree attention, or a caller's parts.

    highest = max lse_i;   mass_i = exp(lse_i - highest);   total = sum mass_i
    out = sum mass_i out_i / total;   lse = highest + log total

Splits: a program reads a tile of BLOCK_R rows times BLOCK_S splits, and again where there are more
splits; grid ceil(B * Hq * T / BLOCK_R). With a program a row of many rows, their number was what
took the time: 11 us for 1,680 rows of 8 splits on an H100, 2 us with four rows a program.
Parts: a program a tile of rows reads part after part; grid ceil(B * Hq * T / BLOCK_R); their
pointers and strides come as tuples, so any number of parts is one launch, compiled once a number.
Bytes: every part once, the result once; 2 flops an element. Bound: memory, mostly the L2, where
the splits were just written.

A part whose lse is -inf is not read: a split that held nothing has not written there.
Not handled: float64.
"""

# A kernel's arguments have their types from the launch.
# mypy: allow-untyped-defs
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparrow_kernels.ops.attention.triton.configurations import padded_head_dim
from sparrow_kernels.ops.attention.triton.launch import Grid, aligned, launch

BLOCK_R = 16
ANY_ALIGNMENT = ["lses_ptr", "lse_ptr"]
_ANY_VALUE = ["lse_stride_b", "lse_stride_h", "lse_stride_t", "num_splits", "rows", "heads", "T"]


@triton.jit
def _finite(highest):
    """-inf - -inf would be NaN."""
    return tl.where(highest == -float("inf"), 0.0, highest)


@triton.jit(do_not_specialize=_ANY_VALUE, do_not_specialize_on_alignment=ANY_ALIGNMENT)
def splits_kernel(
    parts_ptr,  # [num_splits, B, Hq, T, D], contiguous
    lses_ptr,  # [num_splits, B, Hq, T] float32, contiguous
    out_ptr,  # [B, Hq, T, D]
    lse_ptr,  # [B, Hq, T] float32 or None
    out_stride_b, out_stride_h, out_stride_t,
    lse_stride_b, lse_stride_h, lse_stride_t,
    num_splits, rows, heads, T,  # rows = B * Hq * T
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_S: tl.constexpr,
    DEPENDENT: tl.constexpr,  # launched while the splits are still at work
):  # fmt: skip
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    exists = row < rows
    dims = tl.arange(0, BLOCK_D)
    acc = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    highest = tl.full([BLOCK_R], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    for first in range(0, num_splits, BLOCK_S):
        splits = first + tl.arange(0, BLOCK_S)
        places = row[:, None] + splits.to(tl.int64)[None, :] * rows
        there = exists[:, None] & (splits < num_splits)[None, :]
        lses = tl.load(lses_ptr + places, mask=there, other=-float("inf"))
        written = (lses != -float("inf"))[:, :, None] & (dims < D)[None, None, :]
        parts = parts_ptr + places[:, :, None] * D + dims[None, None, :]
        values = tl.load(parts, mask=written, other=0.0)
        rise = tl.maximum(highest, tl.max(lses, 1))
        masses = tl.exp(lses - _finite(rise)[:, None])
        shrink = tl.exp(highest - _finite(rise))
        total = total * shrink + tl.sum(masses, 1)
        weighed = values.to(tl.float32) * masses[:, :, None]
        acc = acc * shrink[:, None] + tl.sum(weighed, 1)
        highest = rise
    blind = total == 0.0
    request, head, node = row // T // heads, row // T % heads, row % T
    result = (acc / tl.where(blind, 1.0, total)[:, None]).to(out_ptr.dtype.element_ty)
    out_ptr += request * out_stride_b + head * out_stride_h + node * out_stride_t
    kept = exists[:, None] & (dims < D)[None, :]
    tl.store(out_ptr[:, None] + dims[None, :], result, mask=kept)
    if lse_ptr is not None:
        lse_ptr += request * lse_stride_b + head * lse_stride_h + node * lse_stride_t
        natural = highest + tl.log(tl.where(blind, 1.0, total))
        tl.store(lse_ptr, natural, mask=exists)


@triton.jit(do_not_specialize=["rows", "heads", "T"])
def parts_kernel(
    parts,  # tuple of [B, Hq, T, D]
    lses,  # tuple of [B, Hq, T] float32
    part_strides,  # tuple of 3 strides a part
    lse_strides,  # tuple of 3 strides a part
    out_ptr,  # [B, Hq, T, D], contiguous
    lse_ptr,  # [B, Hq, T] float32, contiguous
    rows, heads, T,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    exists = row < rows
    request, head, node = row // T // heads, row // T % heads, row % T
    dims = tl.arange(0, BLOCK_D)
    highest = tl.full([BLOCK_R], -float("inf"), tl.float32)
    for part in tl.static_range(len(parts)):
        stride_b, stride_h, stride_t = lse_strides[part]
        places = request * stride_b + head * stride_h + node * stride_t
        part_lse = tl.load(lses[part] + places, mask=exists, other=-float("inf"))
        highest = tl.maximum(highest, part_lse)
    acc = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    for part in tl.static_range(len(parts)):
        stride_b, stride_h, stride_t = lse_strides[part]
        places = request * stride_b + head * stride_h + node * stride_t
        part_lse = tl.load(lses[part] + places, mask=exists, other=-float("inf"))
        mass = tl.exp(part_lse - _finite(highest))
        total += mass
        # A part without mass beside the highest is not read, whatever it holds.
        stride_b, stride_h, stride_t = part_strides[part]
        places = request * stride_b + head * stride_h + node * stride_t
        read = (mass > 0.0)[:, None] & (dims < D)[None, :]
        values = tl.load(parts[part] + places[:, None] + dims[None, :], mask=read, other=0.0)
        acc += values.to(tl.float32) * mass[:, None]
    blind = total == 0.0
    result = (acc / tl.where(blind, 1.0, total)[:, None]).to(out_ptr.dtype.element_ty)
    kept = exists[:, None] & (dims < D)[None, :]
    tl.store(out_ptr + row[:, None] * D + dims[None, :], result, mask=kept)
    tl.store(lse_ptr + row, highest + tl.log(tl.where(blind, 1.0, total)), mask=exists)


def splits_warps(head_dim: int) -> int:
    """Warps of a program: as many as hold its tile in 64 registers a thread."""
    return max(2, padded_head_dim(head_dim) // 64)


def merge_splits(
    parts: Tensor,
    lses: Tensor,
    out: Tensor,
    lse: Tensor | None,
    tile: tuple[int, int],
    dependent: bool,
) -> None:
    """Join splits `[num_splits, B, Hq, T, D]` and their lse into `out` and `lse`.

    `tile`: rows and splits of a program, as `configurations.splits_tile` gives them.
    `dependent`: start before the kernel that writes the splits has ended, and wait for it there.
    """

    def prepare() -> tuple[Grid, tuple[Any, ...], dict[str, Any]]:
        num_splits, batch, heads, nodes, head_dim = parts.shape
        rows = batch * heads * nodes
        block_r, block_s = tile
        arguments = (
            *out.stride()[:3], *((0, 0, 0) if lse is None else lse.stride()), num_splits, rows,
            heads, nodes, head_dim, padded_head_dim(head_dim), block_r, block_s, dependent,
        )  # fmt: skip
        options: dict[str, Any] = {"num_warps": splits_warps(head_dim)}
        if dependent:
            options["launch_pdl"] = True
        return (triton.cdiv(rows, block_r), 1, 1), arguments, options

    key = (
        out.device, out.dtype, parts.shape, out.stride(),
        None if lse is None else lse.stride(), tile, dependent, aligned(parts, out),
    )  # fmt: skip
    launch(splits_kernel, key, (parts, lses, out, lse), prepare)


def merge_attention(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """See `sparrow_kernels.merge_attention`. One launch, whatever the number of parts."""
    batch, heads, nodes, head_dim = outs[0].shape
    out = torch.empty(outs[0].shape, dtype=outs[0].dtype, device=outs[0].device)
    lse = torch.empty(outs[0].shape[:3], dtype=torch.float32, device=outs[0].device)
    rows = batch * heads * nodes
    if rows == 0 or head_dim == 0:
        return out, lse
    outs = [part if part.stride(3) == 1 else part.contiguous() for part in outs]
    with torch.cuda.device_of(out):  # Triton launches on the current device
        parts_kernel[(triton.cdiv(rows, BLOCK_R),)](
            tuple(outs), tuple(lses), tuple(part.stride()[:3] for part in outs),
            tuple(part.stride() for part in lses), out, lse, rows, heads, nodes, D=head_dim,
            BLOCK_D=padded_head_dim(head_dim), BLOCK_R=BLOCK_R, num_warps=4,
        )  # fmt: skip
    return out, lse
