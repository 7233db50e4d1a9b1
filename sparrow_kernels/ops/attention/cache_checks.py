"""What the cache appends refuse when values are checked."""

from __future__ import annotations

from torch import Tensor

from sparrow_kernels.ops import native
from sparrow_kernels.ops.attention.checks import lengths_inside, scales_are_any
from sparrow_kernels.ops.errors import refuse
from sparrow_kernels.ops.library import NATIVE
from sparrow_kernels.ops.pages import check_pages


def append_cache_(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    prefix_lens: Tensor,
    block_table: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> None:
    """The new rows fit behind the prefix, and scales are any."""
    scales_are_any("append_cache_", key_scale, value_scale)
    _check_rows("append_cache_", prefix_lens, key.shape[2], key_cache, block_table)


def rotate_append_(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    prefix_lens: Tensor,
    block_table: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> None:
    """The new rows fit behind the prefix, and scales are any."""
    scales_are_any("rotate_append_", key_scale, value_scale)
    _check_rows("rotate_append_", prefix_lens, key.shape[2], key_cache, block_table)


def _check_rows(
    op: str, prefix_lens: Tensor, rows: int, cache: Tensor, block_table: Tensor | None
) -> None:
    if block_table is None:
        lengths_inside(op, prefix_lens, rows, cache.shape[2])
        return
    # A call runs in every layer. What is wrong is found below, in the words of all backends.
    if native.takes_checks(prefix_lens) and NATIVE.append_fits.default(
        prefix_lens, rows, cache.shape[0], cache.shape[2], block_table
    ):
        return
    for b, length in enumerate(prefix_lens.tolist()):
        if length < 0:
            refuse(op, "prefix_lens", "at least 0", f"{length} for request {b}")
    check_pages(op, block_table, cache, prefix_lens, prefix_lens.long() + rows, writes=prefix_lens)
