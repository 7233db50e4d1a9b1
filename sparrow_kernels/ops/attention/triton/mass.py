"""The softmax weight that each committed slot receives, summed over the rows of a KV head's group.

    mass[s] = sum over rows of exp(scale * q k_s^T - lse[row])

Grid: tile of slots (fastest: programs that share queries run together) x KV head x request. A
program loads its keys once and goes over all G * T rows, whose tiles come by asynchronous copies;
row = query row * G + head of the group. It writes its own slots and nobody else's: no atomics, so
the same bits each time.
Bytes: 2 D a slot and KV head once, Q and lse once for each tile of slots, mostly from the L2; 4 a
slot written. Flops: 2 D a row and slot. Exponentials: 1 a row and slot. Bound: the tensor cores and
the exponentials, where rows are many.

Relies on: contiguous last dims, all else strided. Nothing about values: lengths and pages are
clamped; slots past the prefix are not read.
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

ANY_ALIGNMENT = ["prefix_lens_ptr", "lse_ptr", "block_table_ptr", "mass_ptr"]
_ANY_VALUE = [
    "lse_stride_b", "lse_stride_h", "table_stride_b", "T", "N", "num_pages", "slot_tiles",
    "num_groups",
]  # fmt: skip


@triton.jit(do_not_specialize=_ANY_VALUE, do_not_specialize_on_alignment=ANY_ALIGNMENT)
def mass_kernel(
    query_ptr,  # [B, Hq, T, D]
    key_ptr,  # [B, Hkv, N, D], or with a block table [num_pages, Hkv, PAGE, D]
    prefix_lens_ptr,  # [B] int32
    lse_ptr,  # [B, Hq, T] float32
    block_table_ptr,  # [B, N / PAGE] int32 or None
    mass_ptr,  # [B, Hkv, N] float32, contiguous
    query_stride_b, query_stride_h, query_stride_t,
    key_stride_b, key_stride_h, key_stride_n,
    lse_stride_b, lse_stride_h, table_stride_b,
    scale_log2,  # scale * log2(e)
    T, N, num_pages, slot_tiles, num_groups,  # num_groups is Hkv
    G: tl.constexpr,
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
    found = None
    if block_table_ptr is None:
        key_ptr += request * key_stride_b
    else:
        table = block_table_ptr + request * table_stride_b
        pages = (table, num_pages, key_stride_b, key_stride_b, PAGE)
        found = slot_pages(pages, slots, committed)
    ptrs = slot_pointers(key_ptr, slots, key_stride_n, found, key_stride_b, PAGE, BLOCK_D)
    keys = load_slots(ptrs, committed, D, BLOCK_D)

    query_ptr += request * query_stride_b + group * G * query_stride_h
    lse_ptr += request * lse_stride_b + group * G * lse_stride_h
    dims = tl.arange(0, BLOCK_D)
    mass = tl.zeros([BLOCK_N], tl.float32)
    end = tl.where(program % slot_tiles * BLOCK_N < length, T * G, 0)
    for first in tl.range(0, end, BLOCK_M):
        rows = first + tl.arange(0, BLOCK_M)
        exists = rows < T * G
        head, node = (rows % G).to(tl.int64), (rows // G).to(tl.int64)
        starts = head * query_stride_h + node * query_stride_t
        inside = exists[:, None] & (dims < D)[None, :]
        queries = tl.load(query_ptr + starts[:, None] + dims[None, :], mask=inside, other=0.0)
        lse = tl.load(lse_ptr + head * lse_stride_h + node, mask=exists, other=-float("inf"))
        # A row that sees nothing gives nothing.
        lse = tl.where(lse == -float("inf"), float("inf"), lse * 1.4426950408889634)
        scores = tl.dot(keys, tl.trans(queries), input_precision="ieee")
        mass += tl.sum(tl.exp2(scores * scale_log2 - lse[None, :]), 1)
    mass_ptr += (request * num_groups + group) * N
    tl.store(mass_ptr + slots, tl.where(committed, mass, 0.0), mask=slots < N)
