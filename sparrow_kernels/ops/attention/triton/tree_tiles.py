"""The steps of the tree kernel: load a tile, fold it into a running softmax, read ancestor words.

A program's rows come in one or two subtiles. What each subtile has of its own (queries, masks,
running softmax) is a tuple of one or two entries, so that a loop reads alike for both.
"""

# A kernel's arguments have their types from the launch.
# mypy: allow-untyped-defs
# Tuples of one entry or two, which is decided when a kernel is compiled.
# mypy: disable-error-code="assignment,misc"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def slot_pages(pages, slots, seen):
    """The page of each of `slots` `[n]`; `pages` is (a request's table, pages in the cache, strides
    of a page of keys and of values, slots of a page)."""
    table, num_pages, _, _, size = pages
    number = slots.to(tl.uint32) // tl.cast(size, tl.uint32)
    found = tl.load(table + number) if seen is None else tl.load(table + number, mask=seen, other=0)
    return tl.minimum(tl.maximum(found, 0), num_pages - 1)


@triton.jit
def slot_pointers(ptr, slots, stride, found, page_stride, size, BLOCK_D: tl.constexpr):
    """`[n, BLOCK_D]` into the rows `slots` `[n]` of a cache, or of the pages `found` for them."""
    if found is None:
        starts = slots.to(tl.int64) * stride
    else:
        within = slots.to(tl.uint32) % tl.cast(size, tl.uint32)
        starts = found.to(tl.int64) * page_stride + within.to(tl.int64) * stride
    return ptr + starts[:, None] + tl.arange(0, BLOCK_D)[None, :]


@triton.jit
def load_slots(ptrs, seen, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows `[n, BLOCK_D]`. Not `seen` (None: all are): 0, not read."""
    dims = tl.arange(0, BLOCK_D)
    if seen is not None:
        return tl.load(ptrs, mask=seen[:, None] & (dims < D)[None, :], other=0.0)
    elif D < BLOCK_D:
        return tl.load(ptrs, mask=(dims < D)[None, :], other=0.0)
    else:
        return tl.load(ptrs)


@triton.jit
def row_numbers(first_row, BLOCK_M0: tl.constexpr, BLOCK_M1: tl.constexpr):
    """The rows of each subtile; row = node * G + head of the group."""
    rows = (first_row + tl.arange(0, BLOCK_M0),)
    if BLOCK_M1 > 0:
        rows = (rows[0], first_row + BLOCK_M0 + tl.arange(0, BLOCK_M1))
    return rows


@triton.jit
def load_queries(
    ptr, rows, steps, T, G: tl.constexpr, SIGN: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Queries `[M, BLOCK_D]` of `rows` `[M]`; row = node * G + head. 0 past the last."""
    dims = tl.arange(0, BLOCK_D)
    ptrs = ptr + (rows % G).to(tl.int64) * steps[0] + (rows // G).to(tl.int64) * steps[1]
    inside = (rows < T * G)[:, None] & (dims < D)[None, :]
    queries = tl.load(ptrs[:, None] + dims[None, :], mask=inside, other=0.0)
    # The sign of the scale goes here, so that the highest scaled score is the scaled highest.
    if SIGN != 1:
        queries = queries * SIGN
    return queries


@triton.jit
def begin(BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """A softmax over nothing: weighted sum of values, highest score, sum of weights."""
    highest = tl.full([BLOCK_M], -float("inf"), tl.float32)
    return tl.zeros([BLOCK_M, BLOCK_D], tl.float32), highest, tl.zeros([BLOCK_M], tl.float32)


@triton.jit
def _fold(query, keys, values, state, visible, bias, scale_log2):
    acc, highest, total = state
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
    if bias is not None:
        scores = scores * scale_log2 + bias[None, :]
        scale_log2 = 1.0
    if visible is not None:
        scores = tl.where(visible, scores, -float("inf"))
    rise = tl.maximum(highest, tl.max(scores, 1) * scale_log2)
    base = rise
    # A row that has seen nothing yet: -inf - -inf would be NaN.
    if visible is not None or bias is not None:
        base = tl.where(rise == -float("inf"), 0.0, rise)
    weights = tl.exp2(scores * scale_log2 - base[:, None])
    shrink = tl.exp2(highest - base)
    total = total * shrink + tl.sum(weights, 1)
    acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
    return acc, rise, total


@triton.jit
def fold(queries, keys, values, states, visible, bias, scale_log2):
    """Add a tile of slots to every subtile; `bias` `[n]` is in units of log 2. With a mask or
    without, a row that sees the tile whole gets the same bits, and one that sees none of it keeps
    its own."""
    first_mask = None if visible is None else visible[0]
    first = _fold(queries[0], keys, values, states[0], first_mask, bias, scale_log2)
    if len(queries) == 1:
        states = (first,)
    else:
        second_mask = None if visible is None else visible[1]
        second = _fold(queries[1], keys, values, states[1], second_mask, bias, scale_log2)
        states = (first, second)
    return states


@triton.jit
def _word(words, exists, number, W):
    """Word `number` of each row. Below word 0 lies the prefix, which all rows see."""
    numbers = number + tl.zeros_like(exists.to(tl.int32))
    inside = exists & (numbers >= 0) & (numbers < W)
    word = tl.load(words + numbers, mask=inside, other=0).to(tl.uint64, bitcast=True)
    return tl.where(numbers < 0, ~tl.zeros_like(word), word)


@triton.jit
def tree_bits(words, exists, first, W):
    """`[M]` uint64: bit n says whether the row sees tree slot `first + n`; `first` may be negative,
    in the prefix."""
    number = first >> 6
    shift = (first & 63).to(tl.uint64)
    # A shift by 64 is undefined, so the second word's goes in two steps.
    bits = _word(words, exists, number, W) >> shift
    return bits | ((_word(words, exists, number + 1, W) << 1) << (63 - (first & 63)).to(tl.uint64))


@triton.jit
def has_bit(bits, BLOCK_T: tl.constexpr):
    """`[..., BLOCK_T]`: bit n of `bits` `[...]` uint64. In halves: 64-bit numbers for each row and
    slot would fill the registers."""
    places = tl.arange(0, BLOCK_T)
    low, high = bits.to(tl.uint32), (bits >> 32).to(tl.uint32)
    half = tl.where((places < 32)[None, :], low[:, None], high[:, None])
    return (half & (1 << (places & 31)).to(tl.uint32)[None, :]) != 0


@triton.jit
def tree_extent(words, exists, W):
    """The number of tree slots up to the last that some row sees."""
    extent = tl.full([], 0, tl.int32)
    places = tl.arange(0, 64).to(tl.uint64)
    for number in range(0, W):
        # The highest bit of the largest word is that of the union.
        word = tl.load(words + number, mask=exists, other=0).to(tl.uint64, bitcast=True)
        largest = tl.max(word, 0)
        width = tl.sum(((largest >> places) != 0).to(tl.int32), 0)
        extent = tl.maximum(extent, tl.where(width > 0, number * 64 + width, 0))
    return extent


@triton.jit
def store_rows(
    out, out_steps, lse, lse_steps, rows, state, value_scale, T, num_splits,
    G: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The result of the subtile's `rows` `[M]`. A row that saw nothing: 0 and -inf, beside other
    splits -inf alone, since the merge does not read what has no mass."""
    acc, highest, total = state
    blind = total == 0.0
    dims = tl.arange(0, BLOCK_D)
    head, node = (rows % G).to(tl.int64), (rows // G).to(tl.int64)
    exists = rows < T * G
    if value_scale is not None:
        acc *= value_scale
    result = (acc * (1.0 / tl.where(blind, 1.0, total))[:, None]).to(out.dtype.element_ty)
    ptrs = out + head * out_steps[0] + node * out_steps[1]
    kept = exists & (tl.where(num_splits == 1, 1, (total != 0.0).to(tl.int32)) != 0)
    tl.store(ptrs[:, None] + dims[None, :], result, mask=kept[:, None] & (dims < D)[None, :])
    if lse is not None:
        natural = (highest + tl.log2(tl.where(blind, 1.0, total))) * 0.6931471805599453
        ptrs = lse + head * lse_steps[0] + node * lse_steps[1]
        tl.store(ptrs, tl.where(blind, -float("inf"), natural), mask=exists)
