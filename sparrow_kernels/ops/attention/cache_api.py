"""The public cache appends: one op a layer puts a step's new rows behind the prefix."""

from __future__ import annotations

import torch  # noqa: F401, used by the examples
from torch import Tensor

from sparrow_kernels.ops.attention.cache_arguments import (
    append_arguments_fit,
    check_append,
    check_store_scales,
    rotation_arguments_fit,
)
from sparrow_kernels.ops.attention.cache_ops import APPEND_CACHE, ROTATE_APPEND


def append_cache_(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    prefix_lens: Tensor,
    *,
    block_table: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> None:
    """Write new rows to slots `prefix_len + i` of the caches, in place.

    An op, so that no compiled graph copies a cache to keep the write apart.

    All T rows of every request are written: there is no number of nodes here. Those past a
    request's last node, and all of an idle one, need slots too; nobody sees them there, and the
    next append writes over them. Where such slots are not the request's own (its cache is full, or
    its pages have gone to another), give the append a `block_table` or `prefix_lens` of its own:
    "Idle requests and short trees" in docs/library-authors.md has both.

    Args:
        key, value: `[B, Hkv, T, D]` of a float dtype.
        key_cache, value_cache: `[B, Hkv, N, D]` of the same dtype, or both float8_e4m3fn; views of
            a slab will do.
        prefix_lens: `[B]` int32 in 0..N - T.
        block_table: `[B, pages]` int32. Caches are then `[num_pages, Hkv, page_size, D]` with free
            strides, and slot s of request b is row s % page_size of page
            `block_table[b, s // page_size]`.
        key_scale, value_scale: `[B | 1, Hkv | 1]` float32, positive, of float8 caches: row x is
            stored as `(x.float() / scale).clamp(-448, 448)`, rounded to nearest even. 1 where left
            out. Rows that are float8 themselves are stored as they are, without.

    Raises:
        ValueError: wrong shape; with value checks on also rows that do not fit (else: dropped), a
            table that is too short, out of range or lets two requests write to one page, and a
            cache that is expanded or shares memory with another argument.
        TypeError: wrong dtype or device.
        NotImplementedError: no backend takes the case, such as rows to be made float8 on a GPU.

    Equivalent to:

    >>> key, value = torch.randn(2, 1, 2, 3, 8)
    >>> key_cache, value_cache = torch.zeros(2, 1, 2, 16, 8)
    >>> append_cache_(key, value, key_cache, value_cache, torch.tensor([5], dtype=torch.int32))
    >>> expected = torch.zeros(1, 2, 16, 8)
    >>> expected[:, :, 5:8] = key
    >>> torch.equal(key_cache, expected)
    True
    """
    given = (key, value, key_cache, value_cache, prefix_lens, block_table)
    if not append_arguments_fit(*given):
        check_append("append_cache_", *given)
    if key_scale is not None or value_scale is not None:
        check_store_scales("append_cache_", key, key_cache, key_scale, value_scale)
    APPEND_CACHE(*given, key_scale, value_scale)


def rotate_append_(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    prefix_lens: Tensor,
    *,
    block_table: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> Tensor:
    """Rotary embedding of query and key, fused with the append of key and value.

    Rotate-half over all of D: `x * cos + (-x2, x1) * sin`, computed in float32 (float64 for
    float64) and rounded once. The angles come from the model, so M-RoPE needs nothing special. All
    T rows of every request are written, those of idle ones too, as by `append_cache_`.

    Args:
        query: `[B, Hq, T, D]`, key, value: `[B, Hkv, T, D]`, of one float dtype, D even.
        cos, sin: `[B, T, D]` float32 or of that dtype.
        key_cache, value_cache: `[B, Hkv, N, D]` of that dtype or both float8_e4m3fn, written at
            `prefix_len + i`.
        prefix_lens: `[B]` int32 in 0..N - T.
        block_table, key_scale, value_scale: as in `append_cache_`. Rotated keys are rounded once,
            to float8 too.

    Returns:
        The rotated query `[B, Hq, T, D]`, contiguous.

    Raises:
        ValueError: wrong shape, odd D; with value checks on also rows that do not fit (else:
            dropped, their queries rotated all the same) and what `append_cache_` refuses a table or
            a cache for.
        TypeError: wrong dtype or device.

    Source: Su et al., RoFormer, arXiv 2104.09864, in the rotate-half form of GPT-NeoX.

    Equivalent to:

    >>> query, key, value = torch.randn(3, 1, 2, 4, 8).unbind()
    >>> cos, sin = torch.randn(2, 1, 4, 8).unbind()
    >>> key_cache, value_cache = torch.zeros(2, 1, 2, 16, 8)
    >>> half = lambda x: torch.cat((-x[..., 4:], x[..., :4]), -1)
    >>> rotated = rotate_append_(query, key, value, cos, sin, key_cache, value_cache,
    ...                          torch.tensor([5], dtype=torch.int32))
    >>> torch.allclose(rotated, query * cos + half(query) * sin, atol=1e-6)
    True
    >>> torch.allclose(key_cache[:, :, 5:9], key * cos + half(key) * sin, atol=1e-6)
    True
    """
    appended = (key, value, key_cache, value_cache, prefix_lens, block_table)
    if not (append_arguments_fit(*appended) and rotation_arguments_fit(query, key, cos, sin)):
        check_append("rotate_append_", *appended, query, (cos, sin))
    if key_scale is not None or value_scale is not None:
        check_store_scales("rotate_append_", key, key_cache, key_scale, value_scale)
    caches = (key_cache, value_cache, prefix_lens, block_table, key_scale, value_scale)
    return ROTATE_APPEND(query, key, value, cos, sin, *caches)
