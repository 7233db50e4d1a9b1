"""The softmax weight that each committed slot receives, summed over the rows of a KV head's group.

    lse[row] = log sum over slots of exp(scale * q k_s^T)              unless it is given
    mass[s] = sum over rows of exp(scale * q k_s^T - lse[row])

Grid of the masses: tile of slots (fastest: programs that share queries run together) x KV head x
request. A program loads its keys once and goes over all G * T rows, whose tiles come by
asynchronous copies. It writes its own slots and nobody else's: no atomics, so the same bits each
time. Grid of the lse: tile of rows (fastest: programs that share keys), split, KV head, request; a
program loads its queries once and goes over the tiles of its split, and a third kernel joins the
splits.
Rows: their order changes nothing but a sum's rounding, so it is that of memory, where the group's
heads lie one behind another: a row's place is a product with what the compiler knows. (With
row = node * G + head two thirds of a turn were the addresses of queries and of their lse.)
Bytes: 2 D a slot and KV head twice, Q and lse once for each tile of slots, mostly from the L2; 4 a
slot written. Flops: 4 D a row and slot. Exponentials: 2 a row and slot. Bound: the tensor cores and
the exponentials, where rows are many.

Relies on: contiguous queries and lse, contiguous last dims of keys, all else strided. Nothing about
values: lengths and pages are clamped; slots past the prefix are not read.
Not handled: float64, D above 256.
"""

# A kernel's arguments have their types from the launch.
# mypy: allow-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl

from sparrow_kernels.ops.attention.triton.tree_tiles import (
    load_slots,
    slot_pages,
    slot_pointers,
)

ANY_ALIGNMENT = ["prefix_lens_ptr", "lse_ptr", "block_table_ptr", "mass_ptr", "parts_ptr"]
_ANY_VALUE = [
    "table_stride_b", "num_rows", "N", "num_pages", "slot_tiles", "row_tiles", "num_groups",
    "num_splits",
]  # fmt: skip


@triton.jit
def _load_keys(
    key_ptr, key_stride, pages, slots, committed,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """`[n, BLOCK_D]`; those not `committed` (None: all are) are 0, and not read."""
    found, page_stride = None, 0
    if pages is not None:
        found, page_stride = slot_pages(pages, slots, committed), pages[2]
    ptrs = slot_pointers(key_ptr, slots, key_stride, found, page_stride, PAGE, BLOCK_D)
    return load_slots(ptrs, committed, D, BLOCK_D)


@triton.jit
def _add_up(queries, keys, committed, highest, total, scale_log2):
    """A tile of slots in a running sum of exponentials, in units of log 2."""
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
    if committed is not None:
        scores = tl.where(committed[None, :], scores, -float("inf"))
    rise = tl.maximum(highest, tl.max(scores, 1) * scale_log2)
    base = tl.where(rise == -float("inf"), 0.0, rise)
    weights = tl.sum(tl.exp2(scores * scale_log2 - base[:, None]), 1)
    return rise, total * tl.exp2(highest - base) + weights


@triton.jit(do_not_specialize=_ANY_VALUE, do_not_specialize_on_alignment=ANY_ALIGNMENT)
def lse_kernel(
    query_ptr,  # [B, Hkv, G * T, D], contiguous
    key_ptr,  # [B, Hkv, N, D], or with a block table [num_pages, Hkv, PAGE, D]
    prefix_lens_ptr,  # [B] int32
    block_table_ptr,  # [B, N / PAGE] int32 or None
    lse_ptr,  # [B, Hkv, num_splits, G * T] float32, contiguous; in units of log 2
    key_stride_b, key_stride_h, key_stride_n, table_stride_b,
    scale_log2,  # |scale| * log2(e), above 0
    num_rows, N, num_pages, row_tiles, num_groups, num_splits,  # G * T, and num_groups is Hkv
    SIGN: tl.constexpr,  # of the scale: -1, 0 or 1
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,  # rows
    BLOCK_N: tl.constexpr,  # slots
    PAGE: tl.constexpr,  # slots of a page, 0 without a block table
):  # fmt: skip
    program = tl.program_id(0)
    split = program // row_tiles % num_splits
    place = (program // row_tiles // num_splits).to(tl.int64)
    request, group = place // num_groups, place % num_groups
    length = tl.minimum(tl.maximum(tl.load(prefix_lens_ptr + request), 0), N)
    key_ptr += group * key_stride_h
    pages = None
    if block_table_ptr is None:
        key_ptr += request * key_stride_b
    else:
        table = block_table_ptr + request * table_stride_b
        pages = (table, num_pages, key_stride_b, key_stride_b, PAGE)

    rows = program % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    exists, dims = rows < num_rows, tl.arange(0, BLOCK_D)
    places = (place * num_rows + rows)[:, None] * D + dims[None, :]
    inside = exists[:, None] & (dims < D)[None, :]
    queries = tl.load(query_ptr + places, mask=inside, other=0.0)
    # The sign of the scale goes here, so that the highest scaled score is the scaled highest.
    if SIGN != 1:
        queries = queries * SIGN

    highest = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    whole = length // BLOCK_N
    for tile in tl.range(whole * split // num_splits, whole * (split + 1) // num_splits):
        slots = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        keys = _load_keys(key_ptr, key_stride_n, pages, slots, None, D, BLOCK_D, PAGE)
        highest, total = _add_up(queries, keys, None, highest, total, scale_log2)
    if split == 0 and whole * BLOCK_N < length:
        slots = whole * BLOCK_N + tl.arange(0, BLOCK_N)
        committed = slots < length
        keys = _load_keys(key_ptr, key_stride_n, pages, slots, committed, D, BLOCK_D, PAGE)
        highest, total = _add_up(queries, keys, committed, highest, total, scale_log2)
    lse_ptr += (place * num_splits + split) * num_rows
    tl.store(lse_ptr + rows, _log2_of(highest, total), mask=exists)


@triton.jit
def _log2_of(highest, total):
    """-inf of nothing."""
    blind = total == 0.0
    return tl.where(blind, -float("inf"), highest + tl.log2(tl.where(blind, 1.0, total)))


@triton.jit(do_not_specialize=_ANY_VALUE, do_not_specialize_on_alignment=ANY_ALIGNMENT)
def join_kernel(
    parts_ptr,  # [B, Hkv, num_splits, G * T] float32, contiguous; in units of log 2
    lse_ptr,  # [B, Hkv, G * T] float32, contiguous
    num_rows, row_tiles, num_splits,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,  # at least num_splits
):  # fmt: skip
    """Grid: tile of rows (fastest), KV head, request."""
    place = (tl.program_id(0) // row_tiles).to(tl.int64)
    rows = tl.program_id(0) % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    splits = tl.arange(0, BLOCK_S)
    there = (splits < num_splits)[:, None] & (rows < num_rows)[None, :]
    places = (place * num_splits + splits)[:, None] * num_rows + rows[None, :]
    parts = tl.load(parts_ptr + places, mask=there, other=-float("inf"))
    highest = tl.max(parts, 0)
    base = tl.where(highest == -float("inf"), 0.0, highest)
    lse = _log2_of(base, tl.sum(tl.exp2(parts - base[None, :]), 0)) * 0.6931471805599453
    tl.store(lse_ptr + place * num_rows + rows, lse, mask=rows < num_rows)


@triton.jit(do_not_specialize=_ANY_VALUE, do_not_specialize_on_alignment=ANY_ALIGNMENT)
def mass_kernel(
    query_ptr,  # [B, Hkv, G * T, D], contiguous
    key_ptr,  # [B, Hkv, N, D], or with a block table [num_pages, Hkv, PAGE, D]
    prefix_lens_ptr,  # [B] int32
    lse_ptr,  # [B, Hkv, G * T] float32, contiguous
    block_table_ptr,  # [B, N / PAGE] int32 or None
    mass_ptr,  # [B, Hkv, N] float32, contiguous
    key_stride_b, key_stride_h, key_stride_n, table_stride_b,
    scale_log2,  # scale * log2(e)
    num_rows, N, num_pages, slot_tiles, num_groups,  # G * T, and num_groups is Hkv
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,  # rows
    BLOCK_N: tl.constexpr,  # slots
    PAGE: tl.constexpr,  # slots of a page, 0 without a block table
):  # fmt: skip
    program = tl.program_id(0)
    group = (program // slot_tiles % num_groups).to(tl.int64)
    request = (program // slot_tiles // num_groups).to(tl.int64)
    length = tl.minimum(tl.maximum(tl.load(prefix_lens_ptr + request), 0), N)
    slots = program % slot_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    committed = slots < length
    key_ptr += group * key_stride_h
    pages = None
    if block_table_ptr is None:
        key_ptr += request * key_stride_b
    else:
        table = block_table_ptr + request * table_stride_b
        pages = (table, num_pages, key_stride_b, key_stride_b, PAGE)
    keys = _load_keys(key_ptr, key_stride_n, pages, slots, committed, D, BLOCK_D, PAGE)

    place = request * num_groups + group
    query_ptr += place * num_rows * D
    lse_ptr += place * num_rows
    dims = tl.arange(0, BLOCK_D)
    mass = tl.zeros([BLOCK_N], tl.float32)
    end = tl.where(program % slot_tiles * BLOCK_N < length, num_rows, 0)
    for first in tl.range(0, end, BLOCK_M):
        rows = first + tl.arange(0, BLOCK_M)
        exists = rows < num_rows
        inside = exists[:, None] & (dims < D)[None, :]
        places = rows.to(tl.int64)[:, None] * D + dims[None, :]
        queries = tl.load(query_ptr + places, mask=inside, other=0.0)
        lse = tl.load(lse_ptr + rows, mask=exists, other=-float("inf"))
        # A row that sees nothing gives nothing.
        lse = tl.where(lse == -float("inf"), float("inf"), lse * 1.4426950408889634)
        scores = tl.dot(keys, tl.trans(queries), input_precision="ieee")
        mass += tl.sum(tl.exp2(scores * scale_log2 - lse[None, :]), 1)
    mass_ptr += place * N
    tl.store(mass_ptr + slots, tl.where(committed, mass, 0.0), mask=slots < N)
