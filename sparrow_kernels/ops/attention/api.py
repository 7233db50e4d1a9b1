"""The public attention ops of a decode step: anchors, tree attention, merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from sparrow_kernels.ops.attention import at_once
from sparrow_kernels.ops.attention.arguments import (
    FLOATS,
    check_anchoring,
    check_integers,
    check_key_bias,
    check_results,
    check_scale,
    check_tree_arguments,
    scale_or_default,
    tree_arguments_fit,
)
from sparrow_kernels.ops.attention.autocast import cast_as_sdpa
from sparrow_kernels.ops.attention.ops import (
    ANCHOR_INDEX,
    MERGE_ATTENTION,
    TREE_ATTENTION,
    TREE_ATTENTION_OUT,
)
from sparrow_kernels.ops.errors import Size, check_integer, check_tensor, refuse
from sparrow_kernels.ops.pages import check_block_table, num_slots
from sparrow_kernels.ops.types import AnchorIndex, Attended


@overload
def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor,
    prefix_lens: Tensor,
    *,
    prefix_starts: Tensor | None = None,
    anchors: AnchorIndex | None = None,
    window: int | None = None,
    depth: Tensor | None = None,
    scale: float | None = None,
    return_lse: Literal[False] = False,
    num_splits: int | None = None,
    out: Tensor | Attended | None = None,
    block_table: Tensor | None = None,
    key_bias: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> Tensor: ...
@overload
def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor,
    prefix_lens: Tensor,
    *,
    prefix_starts: Tensor | None = None,
    anchors: AnchorIndex | None = None,
    window: int | None = None,
    depth: Tensor | None = None,
    scale: float | None = None,
    return_lse: Literal[True],
    num_splits: int | None = None,
    out: Tensor | Attended | None = None,
    block_table: Tensor | None = None,
    key_bias: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> Attended: ...
def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ancestors: Tensor,
    prefix_lens: Tensor,
    *,
    prefix_starts: Tensor | None = None,
    anchors: AnchorIndex | None = None,
    window: int | None = None,
    depth: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    num_splits: int | None = None,
    out: Tensor | Attended | None = None,
    block_table: Tensor | None = None,
    key_bias: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> Tensor | Attended:
    """Attend from the rows of a draft tree to the committed prefix and to the tree's own slots.

    Slots `[prefix_start, prefix_len)` of the cache are committed; slot `prefix_len + j` holds tree
    node j. A row sees every committed slot, or, with `anchors`, those that are anchors or less than
    `window` positions before the row; and it sees tree slot j iff bit j % 64 of word j // 64 of its
    `ancestors` row is set. There may be more tree slots than rows. A row of zero words still sees
    the prefix; a row that sees nothing yields 0 and log-sum-exp -inf. A tree slot that no row of
    its request sees is not read. Not differentiable. Under autocast query, key and value are cast
    as for `scaled_dot_product_attention`, the whole cache among them: keep it in that dtype, or in
    float8, which is left alone.

    Args:
        query: `[B, Hq, T, D]` float32, float16, bfloat16 or float64.
        key, value: `[B, Hkv, N, D]` caches, Hq a multiple of Hkv, of the query's dtype or both
            float8_e4m3fn; views of a larger slab will do.
        ancestors: `[B, T, W]` int64 words, such as `build_tree` makes; W is for the tree slots, at
            least one.
        prefix_lens: `[B]` int32 in 0..N.
        prefix_starts: `[B]` int32 in 0..prefix_len, the left padding; 0 by default.
        anchors, window, depth: given together: the `anchor_index` of the cache, a number of
            positions, and `[B, T]` int32 depths, 0 for the first level held in tree slots.
        scale: of the scores; D ** -0.5 by default.
        return_lse: also return the natural log-sum-exp of each row's scores.
        num_splits: the number of parts that the slots are cut into: fixes the bits of a row's
            result whatever its neighbours are, in the native and the Triton backend. Without
            meaning to the others.
        out: the result's tensor, or the pair with its log-sum-exp, to write to.
        block_table: `[B, pages]` int32. The caches are then `[num_pages, Hkv, page_size, D]`, any
            strides but the last (`[num_pages, page_size, Hkv, D]` goes in by `.transpose(1, 2)`),
            and slot s of request b is row `s % page_size` of page `block_table[b, s // page_size]`.
            N is pages * page_size, each request's own slots, in everything else. The same bits as
            the same rows in a cache `[B, Hkv, N, D]`. Entries behind the slots in use may be
            anything.
        key_bias: `[B | 1, Hkv | 1, N]`, of the query's dtype or float32, added to the scores of
            committed slots: log b counts a slot b times, -inf takes it away, unread. NaN and inf
            are not for it, but where slots are not committed.
        key_scale, value_scale: `[B | 1, Hkv | 1]` float32, positive, of float8 caches: a stored
            element x means `x.float() * scale`. 1 where left out. Other caches have none.

    Returns:
        `[B, Hq, T, D]`, contiguous, or the pair with `[B, Hq, T]` float32; `out` if given.

    Raises:
        ValueError: wrong shape; with value checks on also lengths, bits or anchors outside the
            cache, or pages outside it (else: clamped, or ignored), fewer words than T rows that see
            tree slots have, a bias of NaN or inf, and an `out` that shares memory with an input; on
            a GPU more than 65,535 requests or KV heads.
        TypeError: wrong dtype or device.
        NotImplementedError: an input requires grad or has a tangent, or no backend takes the case.

    Source: tree attention of SpecInfer, arXiv 2305.09781; parts over disjoint keys joined by
    log-sum-exp as in Flash-Decoding.

    Equivalent to:

    >>> query, (key, value) = torch.randn(1, 4, 3, 8), torch.randn(2, 1, 2, 16, 8)
    >>> ancestors = torch.tensor([[[0b001], [0b011], [0b101]]])          # a root and two children
    >>> mask = torch.zeros(3, 16, dtype=torch.bool)
    >>> mask[:, :10] = True
    >>> mask[:, 10:13] = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    >>> expected = torch.nn.functional.scaled_dot_product_attention(
    ...     query, key, value, attn_mask=mask, enable_gqa=True)
    >>> out = tree_attention(query, key, value, ancestors, torch.tensor([10], dtype=torch.int32))
    >>> torch.allclose(out, expected, atol=1e-5)
    True
    """
    if key_scale is None and value_scale is None:
        attended = at_once.attended(
            *(query, key, value, ancestors, prefix_lens, prefix_starts, anchors, window, depth),
            *(scale, num_splits, block_table, key_bias, return_lse, out),
        )
        if attended is not None:
            return attended
    op, paged = "tree_attention", block_table is not None
    if out is None:  # autocast leaves calls with out= alone
        query, key, value = cast_as_sdpa(query, key, value)
    if not tree_arguments_fit(query, key, value, ancestors, prefix_lens, paged):
        check_tree_arguments(query, key, value, ancestors, prefix_lens, paged)
    if block_table is not None:
        check_block_table(op, block_table, query.shape[0], query)
    slots = count = rank = None
    if prefix_starts is not None:
        batch: dict[str, Size] = {"B": query.shape[0]}
        check_integers(op, "prefix_starts", prefix_starts, "B", batch, query)
    if anchors is not None or window is not None or depth is not None:
        slots, count, rank = check_anchoring(
            query, num_slots(key, block_table), anchors, window, depth
        )
    if key_bias is not None:
        check_key_bias(op, key_bias, query, key.shape[1], num_slots(key, block_table))
    for name, given in (("key_scale", key_scale), ("value_scale", value_scale)):
        if given is not None:
            check_scale(op, name, given, query.shape[0], key)
    if num_splits is not None:
        check_integer(op, "num_splits", num_splits)
        if num_splits < 1:
            refuse(op, "num_splits", "at least 1", num_splits)
    scale = scale_or_default(op, scale, query)
    rest = (prefix_starts, slots, count, rank, window, depth, scale, num_splits)
    later = (block_table, key_bias, key_scale, value_scale)
    if out is None:
        attended = TREE_ATTENTION(query, key, value, ancestors, prefix_lens, *rest, *later)
        return attended if return_lse else attended[0]
    result, lse = check_results(query, out, return_lse)
    TREE_ATTENTION_OUT(query, key, value, ancestors, prefix_lens, *rest, result, lse, *later)
    return result if lse is None or not return_lse else (result, lse)


def anchor_index(anchor_mask: Tensor, max_anchors: int | None = None) -> AnchorIndex:
    """List the anchors of each request, so that kernels loop over them without a search.

    Anchors outside a request's committed slots are ignored when it is used: future text slots can
    be marked once, at the start.

    Args:
        anchor_mask: `[B, N]` bool, one entry for each slot of the cache.
        max_anchors: A, the length of the list; N by default, which needs no knowledge of the mask.

    Returns:
        `AnchorIndex`: slots `[B, A]` int32 ascending, N past the last; count `[B]` int32; rank
        `[B, N + 1]` int32, the number of listed anchors below each slot.

    Raises:
        ValueError: wrong shape; with value checks on also more anchors than A (else: the first A).
        TypeError: wrong dtype.

    Equivalent to:

    >>> anchor_mask = torch.tensor([[True, False, True, True]])
    >>> slots = anchor_mask[0].nonzero().flatten().tolist()
    >>> rank = [sum(slot < s for slot in slots) for s in range(5)]
    >>> index = anchor_index(anchor_mask)
    >>> index.slots.tolist() == [slots + [4]], index.count.tolist() == [3]
    (True, True)
    >>> index.rank.tolist() == [rank]
    True
    """
    check_tensor("anchor_index", "anchor_mask", anchor_mask, "B N", torch.bool)
    listed = anchor_mask.shape[1] if max_anchors is None else max_anchors
    check_integer("anchor_index", "max_anchors", listed)
    if listed < 0:
        refuse("anchor_index", "max_anchors", "at least 0", listed)
    return AnchorIndex(*ANCHOR_INDEX(anchor_mask, listed))


def merge_attention(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> Attended:
    """Join attention over disjoint sets of keys, such as a clip that a batch shares.

    Each part counts by its share of the mass. A part of log-sum-exp -inf is not read; where all are
    -inf the result is 0 and -inf.

    Args:
        outs: results `[B, Hq, T, D]` of one shape and float dtype, at least one.
        lses: their natural log-sum-exps `[B, Hq, T]` float32.

    Returns:
        `[B, Hq, T, D]` of the parts' dtype and `[B, Hq, T]` float32, both contiguous.

    Raises:
        ValueError: no part, wrong shape, unequal numbers. TypeError: wrong dtype or device.

    Source: Flash-Decoding's combination of splits.

    Equivalent to:

    >>> outs, lses = list(torch.randn(3, 1, 2, 4, 8)), list(torch.randn(3, 1, 2, 4))
    >>> share = torch.stack(lses).softmax(0).unsqueeze(-1)
    >>> out, lse = merge_attention(outs, lses)
    >>> torch.allclose(out, (torch.stack(outs) * share).sum(0), atol=1e-6)
    True
    >>> torch.allclose(lse, torch.stack(lses).logsumexp(0))
    True
    """
    op = "merge_attention"
    if len(outs) == 0 or len(outs) != len(lses):
        refuse(op, "outs and lses", "as many and at least one", f"{len(outs)} and {len(lses)}")
    sizes: dict[str, Size] = {}
    first = check_tensor(op, "outs[0]", outs[0], "B Hq T D", FLOATS, sizes)
    for k, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        check_tensor(op, f"outs[{k}]", out, "B Hq T D", first.dtype, sizes, first.device)
        check_tensor(op, f"lses[{k}]", lse, "B Hq T", torch.float32, sizes, first.device)
    return MERGE_ATTENTION(list(outs), list(lses))
