"""The public op that says which committed slots attention goes to."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.arguments import (
    check_floats,
    check_heads,
    check_integers,
    check_query,
    scale_or_default,
)
from sparrow_kernels.ops.attention.autocast import cast_as_sdpa
from sparrow_kernels.ops.attention.hints import refuse_odd_dtype, refuse_swapped_tree
from sparrow_kernels.ops.attention.ops import ATTENTION_MASS
from sparrow_kernels.ops.errors import Size, check_rows_are_dense, check_tensor
from sparrow_kernels.ops.pages import check_block_table


def attention_mass(
    query: Tensor,
    key: Tensor,
    prefix_lens: Tensor,
    *,
    scale: float | None = None,
    block_table: Tensor | None = None,
    lse: Tensor | None = None,
    sum_heads: bool = False,
) -> Tensor:
    """Sum the softmax weight that each committed slot receives from a set of query rows.

    Every row attends to all committed slots `[0, prefix_len)`. No weight of a row and a slot is
    kept: a second pass over the keys makes them again from the log-sum-exps. Methods that choose
    visual tokens by attention (SpecVLM, VisionDrop) average this over rows, heads and layers.
    Not differentiable.

    Args:
        query: `[B, Hq, T, D]` float32, float16, bfloat16 or float64; any number of rows T.
        key: `[B, Hkv, N, D]` cache, Hq a multiple of Hkv.
        prefix_lens: `[B]` int32 in 0..N.
        scale: of the scores; D ** -0.5 by default.
        block_table: `[B, pages]` int32, with `key` in pages, as of `tree_attention`; N is then
            pages * page_size.
        lse: `[B, Hq, T]` float32, the natural log-sum-exp that each row's weights are made with,
            where rows see more than the committed slots (a prompt's own text: `tree_attention(...,
            return_lse=True)` knows it). Computed over the committed slots by default. A row of -inf
            gives nothing.
        sum_heads: sum over KV heads too.

    Returns:
        `[B, Hkv, N]` float32, or `[B, 1, N]` with `sum_heads`; 0 past the prefix. Without `lse` a
        request's slots sum to T * Hq / Hkv for each KV head.

    Raises:
        ValueError: wrong shape; with value checks on also lengths or pages outside the cache (else:
            clamped) and an lse of NaN or inf.
        TypeError: wrong dtype or device.
        NotImplementedError: an input requires grad or has a tangent, or no backend takes the case.

    Source: the scores of SpecVLM, arXiv 2508.16201, from log-sum-exps as in FlashAttention's
    backward.

    Equivalent to:

    >>> query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 16, 8)
    >>> scores = query @ key.repeat_interleave(2, 1).mT * 8 ** -0.5
    >>> expected = torch.zeros(1, 2, 16)
    >>> expected[..., :10] = scores[..., :10].softmax(-1).view(1, 2, 6, 10).sum(2)
    >>> mass = attention_mass(query, key, torch.tensor([10], dtype=torch.int32))
    >>> torch.allclose(mass, expected, atol=1e-5)
    True
    """
    op = "attention_mass"
    query, key = cast_as_sdpa(query, key)
    sizes: dict[str, Size] = {}
    refuse_swapped_tree(op, query, key, None)
    refuse_odd_dtype(op, "query", query, {"key": key})
    like = check_query(op, query, "B Hq T D", sizes)
    caches = "B Hkv N D" if block_table is None else "pages Hkv page_size D"
    check_floats(op, "key", key, caches, sizes, like)
    check_heads(op, sizes)
    check_integers(op, "prefix_lens", prefix_lens, "B", sizes, like)
    if block_table is not None:
        check_block_table(op, block_table, query.shape[0], query)
    if lse is not None:
        check_tensor(op, "lse", lse, "B Hq T", torch.float32, sizes, query.device)
        check_rows_are_dense(op, "lse", lse)
    scale = scale_or_default(op, scale, query)
    mass = ATTENTION_MASS(query, key, prefix_lens, scale, block_table, lse)
    return mass.sum(1, keepdim=True) if sum_heads else mass
