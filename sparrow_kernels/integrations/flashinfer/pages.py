"""Caches in pages: FlashInfer's CSR page table and cache tensors, and a `block_table`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparrow_kernels.integrations.arguments import check, check_kind, refuse, refuse_first
from sparrow_kernels.integrations.ragged import batched, in_a_row, offsets

LAYOUTS = ("NHD", "HND")


def block_table(
    paged_kv_indptr: Tensor,
    paged_kv_indices: Tensor,
    paged_kv_last_page_len: Tensor,
    page_size: int,
    max_pages: int,
) -> tuple[Tensor, Tensor]:
    """A page table in CSR form as the `block_table` of our ops.

    Args:
        paged_kv_indptr: `[B + 1]` int32: request b has pages `indices[indptr[b] : indptr[b + 1]]`.
        paged_kv_indices: `[pages]` int32, or more, as a CUDA graph's buffer is.
        paged_kv_last_page_len: `[B]` int32 slots in use in the last page, 1 to `page_size`.
        page_size: slots of a page.
        max_pages: the most pages of a request.

    Returns:
        `block_table` `[B, max_pages]` int32, 0 behind a request's pages, and `kv_lens` `[B]` int32:
        `page_size * (pages - 1) + last_page_len`, 0 without a page. It counts the rows that the
        step appends: our `prefix_lens` are `kv_lens` minus the request's rows.

    Raises:
        ValueError: wrong shape; where values are checked also more than `max_pages` pages, an
            `indptr` that falls or leads out of `indices`, and a last page that is empty or too
            full. TypeError: wrong dtype or device.
    """
    op, device = "block_table", paged_kv_indices.device
    check_kind(op, "paged_kv_indptr", paged_kv_indptr, torch.int32, device)
    if paged_kv_indptr.dim() != 1 or paged_kv_indptr.shape[0] < 1:
        refuse(op, "paged_kv_indptr", "[B + 1]", list(paged_kv_indptr.shape))
    batch = paged_kv_indptr.shape[0] - 1
    check(op, "paged_kv_indices", paged_kv_indices, [-1], torch.int32)
    last = paged_kv_last_page_len
    check(op, "paged_kv_last_page_len", last, [batch], torch.int32, device)
    _check_page_size(op, page_size)
    pages = paged_kv_indptr.diff()
    too_many = f"ascending by at most max_pages = {max_pages}, up to {len(paged_kv_indices)}"
    bad = (pages < 0) | (pages > max_pages) | (paged_kv_indptr[1:] > paged_kv_indices.shape[0])
    refuse_first(op, "paged_kv_indptr", too_many, paged_kv_indptr[1:], bad)
    bad = (pages > 0) & ((last < 1) | (last > page_size))
    refuse_first(op, "paged_kv_last_page_len", f"1 to page_size = {page_size}", last, bad)
    table = batched(paged_kv_indices, paged_kv_indptr, max_pages, 0)
    lens = torch.where(pages > 0, (pages - 1) * page_size + last, 0)
    return table, lens.int()


def paged_kv(block_table: Tensor, kv_lens: Tensor, page_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The inverse: a `block_table` in the CSR form of FlashInfer's `plan`.

    Args:
        block_table: `[B, pages]` int32.
        kv_lens: `[B]` int32 slots in use, those of the step's rows included:
            `prefix_lens + num_nodes`.
        page_size: slots of a page.

    Returns:
        `paged_kv_indptr` `[B + 1]`, `paged_kv_indices` `[B * pages]` and `paged_kv_last_page_len`
        `[B]`, int32. How many indices there are is known on the device alone, so that nobody waits:
        the first `paged_kv_indptr[-1]` count, the others are 0.

    Raises:
        ValueError: wrong shape; where values are checked also a length that is negative or beyond
            the table. TypeError: wrong dtype or device.
    """
    op = "paged_kv"
    check(op, "block_table", block_table, [-1, -1], torch.int32)
    batch, most = block_table.shape
    check(op, "kv_lens", kv_lens, [batch], torch.int32, block_table.device)
    _check_page_size(op, page_size)
    bad = (kv_lens < 0) | (kv_lens > most * page_size)
    refuse_first(op, "kv_lens", f"0 to {most} pages of {page_size} slots", kv_lens, bad)
    lens = kv_lens.clamp(0, most * page_size)
    pages = torch.div(lens + page_size - 1, page_size, rounding_mode="floor")
    indptr = offsets(pages).int()
    indices = in_a_row(block_table, indptr, batch * most, 0)
    return indptr, indices, (lens - (pages - 1).clamp(min=0) * page_size).int()


def caches(
    paged_kv_cache: Tensor | Sequence[Tensor], kv_layout: str = "NHD"
) -> tuple[Tensor, Tensor]:
    """Key and value pages `[pages, Hkv, page_size, D]`, as our ops take them: views, no copies.

    Args:
        paged_kv_cache: `[pages, 2, page_size, Hkv, D]` (NHD) or `[pages, 2, Hkv, page_size, D]`
            (HND), or the pair (key, value) of `[pages, page_size, Hkv, D]` or
            `[pages, Hkv, page_size, D]`.
        kv_layout: "NHD" or "HND", as the wrapper was made with.

    Raises:
        ValueError: wrong shape or layout. TypeError: not tensors.
    """
    op = "caches"
    if kv_layout not in LAYOUTS:
        refuse(op, "kv_layout", " or ".join(LAYOUTS), kv_layout)
    dims = "page_size, Hkv, D" if kv_layout == "NHD" else "Hkv, page_size, D"
    if isinstance(paged_kv_cache, Tensor):
        if paged_kv_cache.dim() != 5 or paged_kv_cache.shape[1] != 2:
            hint = "key and value apart are a pair of tensors"
            refuse(op, "paged_kv_cache", f"[pages, 2, {dims}]", list(paged_kv_cache.shape), hint)
        pair: Sequence[Tensor] = paged_kv_cache.unbind(1)
    else:
        pair = paged_kv_cache
        if len(pair) != 2:
            refuse(op, "paged_kv_cache", "a pair (key, value)", f"{len(pair)} of them")
        for each in pair:
            check_kind(op, "paged_kv_cache", each, None)
            if each.dim() != 4 or each.shape != pair[0].shape:
                refuse(op, "paged_kv_cache", f"twice [pages, {dims}]", list(each.shape))
    key, value = pair
    return (key, value) if kv_layout == "HND" else (key.transpose(1, 2), value.transpose(1, 2))


def _check_page_size(op: str, page_size: int) -> None:
    if page_size < 1:
        refuse(op, "page_size", "at least 1", page_size)
