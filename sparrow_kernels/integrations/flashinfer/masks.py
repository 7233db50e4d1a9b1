"""Masks over committed slots and tree, as FlashInfer's wrappers take them, and ancestor words."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels import (
    TreeLayout,
    pack_ancestors,
    unpack_ancestors,
    values_are_checked,
)
from sparrow_kernels.integrations.arguments import check, check_kind, refuse, refuse_first
from sparrow_kernels.integrations.ragged import homes, offsets
from sparrow_kernels.integrations.sglang import segment_packbits


def qo_indptr(layout: TreeLayout) -> Tensor:
    """`[B + 1]` int32: where the rows of each request begin, one row a node, none for padding."""
    return offsets(_num_nodes(layout)).int()


def custom_mask(
    layout: TreeLayout, prefix_lens: Tensor, num_elements: int | None = None
) -> tuple[Tensor, Tensor]:
    """The mask of a verify, flat, as `plan(custom_mask=)` takes it.

    A node sees every committed slot and, among the nodes, itself and its ancestors. This is a mask
    over the whole context, which our own attention never builds.

    Args:
        layout: the trees, `[B, T]`; padding has no rows and no columns.
        prefix_lens: `[B]` int32 committed slots; node j lies in slot `prefix_len + j`.
        num_elements: the size of the result, at least what the trees need. Without it they are
            counted, which waits for the device.

    Returns:
        `mask` `[num_elements]` bool: request by request `num_nodes` rows of
        `prefix_len + num_nodes`, False behind the last; and `mask_indptr` `[B + 1]` int32, where
        each request begins.

    Raises:
        ValueError: wrong shape; where values are checked also a negative length and a
            `num_elements` that is too small. TypeError: wrong dtype or device.
    """
    op = "custom_mask"
    _check_lens(op, layout, prefix_lens)
    nodes = _num_nodes(layout)
    width = prefix_lens.long().clamp(min=0) + nodes
    indptr = offsets(nodes * width)
    if num_elements is None:
        num_elements = int(indptr[-1])
    must_be = f"at most num_elements = {num_elements}"
    refuse_first(op, "mask_indptr", must_be, indptr, indptr > num_elements)
    batch, most = layout.depth.shape
    if batch == 0 or most == 0:
        return torch.zeros(num_elements, dtype=torch.bool, device=indptr.device), indptr.int()
    request, place = homes(indptr, num_elements)
    is_inside = request < batch
    request = request.clamp(max=batch - 1)
    # A request with elements has nodes, hence no width of 0; one without is passed over.
    across = width[request].clamp(min=1)
    row = torch.div(place, across, rounding_mode="floor").clamp(max=most - 1)
    node = place % across - prefix_lens.long().clamp(min=0)[request]
    sees = unpack_ancestors(layout.ancestors, most)
    sees_node = sees[request, row.clamp(min=0), node.clamp(0, most - 1)]
    return is_inside & ((node < 0) | sees_node), indptr.int()


def packed_custom_mask(
    layout: TreeLayout, prefix_lens: Tensor, num_elements: int | None = None
) -> tuple[Tensor, Tensor]:
    """The same in bytes, the first element in the lowest bit, each request from a byte of its own.

    This is what FlashInfer's kernels read, `flashinfer.segment_packbits(mask, mask_indptr,
    bitorder="little")` of `custom_mask`. Its `plan(packed_custom_mask=)` takes offsets counted in
    elements for those in bytes (release 0.3.1 and later): with more than one request, give `plan`
    the `custom_mask`, or write these offsets to the wrapper's `mask_indptr_buf` afterwards.

    Args and errors are those of `custom_mask`.

    Returns:
        `packed` uint8, all its bytes (where `num_elements` is given: at least so many, 0 behind
        the last), and `[B + 1]` int32, the byte each request begins with.
    """
    mask, indptr = custom_mask(layout, prefix_lens, num_elements)
    batch = indptr.shape[0] - 1
    begins = offsets((indptr.diff() + 7) // 8).int()
    # Every request may leave seven bits of a byte of its own.
    size = int(begins[-1]) if num_elements is None else (num_elements + 7) // 8 + batch
    packed = torch.zeros(size, dtype=torch.uint8, device=mask.device)
    segment_packbits(mask, indptr, begins, packed, batch)
    return packed, begins


def ancestors(
    mask: Tensor, mask_indptr: Tensor, qo_indptr: Tensor, prefix_lens: Tensor, size: int
) -> Tensor:
    """FlashInfer's mask as the ancestor words of `tree_attention`.

    Args:
        mask: flat bool with `mask_indptr` in elements, or packed uint8 (lowest bit first) with
            `mask_indptr` in bytes. Rows of request b are `prefix_len + num_rows` elements long.
        mask_indptr: `[B + 1]` int32, where each request begins.
        qo_indptr: `[B + 1]` int32, its rows.
        prefix_lens: `[B]` int32 slots before the step's own rows, all of which every row sees.
        size: T, the most rows of a request.

    Returns:
        `[B, T, W]` int64: bit j of a row is its element for slot `prefix_len + j`; 0 in padding.
        Any mask over the step's own rows is kept as it is, a tree's or not.

    Raises:
        ValueError: wrong shape; where values are checked also a row that leaves out a committed
            slot, and a request whose part of `mask` has another size. TypeError: wrong dtype or
            device.
    """
    op, device = "ancestors", mask.device
    check(op, "mask", mask, [-1], (torch.bool, torch.uint8))
    check(op, "prefix_lens", prefix_lens, [-1], torch.int32, device)
    batch = prefix_lens.shape[0]
    check(op, "mask_indptr", mask_indptr, [batch + 1], torch.int32, device)
    check(op, "qo_indptr", qo_indptr, [batch + 1], torch.int32, device)
    rows, prefix = qo_indptr.diff().long(), prefix_lens.long()
    refuse_first(op, "prefix_lens", "not negative", prefix_lens, prefix < 0)
    bad = (rows < 0) | (rows > size)
    refuse_first(op, "qo_indptr", f"ascending by at most size = {size}", qo_indptr[1:], bad)
    prefix, rows = prefix.clamp(min=0), rows.clamp(0, size)
    elements = rows * (prefix + rows)
    wanted = elements if mask.dtype == torch.bool else (elements + 7) // 8
    must_be = "as long a request as num_rows * (prefix_len + num_rows)"
    bad = (mask_indptr.diff() != wanted) | (mask_indptr[1:] > mask.shape[0])
    refuse_first(op, "mask_indptr", must_be, mask_indptr[1:], bad)
    number = torch.arange(size, device=device)
    is_row = number < rows[:, None]
    begin = (prefix + rows)[:, None] * number  # of each row, in its request
    own = (begin + prefix[:, None])[..., None] + number
    sees = _elements(mask, mask_indptr, own) & is_row[:, :, None] & is_row[:, None]
    _check_prefix(op, mask, mask_indptr, torch.stack((rows, prefix), 1))
    return pack_ancestors(sees)


def _check_prefix(op: str, mask: Tensor, indptr: Tensor, sizes: Tensor) -> None:
    """Every row sees all committed slots: `sizes` `[B, 2]` are a request's rows and those."""
    if not values_are_checked(mask.device.type):
        return
    for request, (rows, prefix) in enumerate(sizes.tolist()):
        row = torch.arange(rows, device=mask.device)[:, None] * (prefix + rows)
        place = (row + torch.arange(prefix, device=mask.device))[None]
        seen = _elements(mask, indptr[request : request + 2], place)
        if not bool(seen.all()):
            where = (~seen[0]).nonzero()[0].tolist()
            got = f"row {where[0]} of request {request} without slot {where[1]}"
            hint = "tree_attention sees all of a prefix: give where it begins as prefix_starts"
            refuse(op, "mask", "True for every committed slot", got, hint)


def _elements(mask: Tensor, indptr: Tensor, place: Tensor) -> Tensor:
    """`place` `[B, ...]` counts elements from the begin of each request; False out of the mask."""
    begin = indptr[:-1].long().view(-1, *[1] * (place.dim() - 1))
    if mask.dtype == torch.bool:
        index, bit = begin + place, torch.zeros_like(place)
    else:
        index, bit = begin + torch.div(place, 8, rounding_mode="floor"), place % 8
    if mask.shape[0] == 0:
        return torch.zeros_like(place, dtype=torch.bool)
    found = mask[index.clamp(0, mask.shape[0] - 1)].long() >> bit & 1
    return (found == 1) & (index < mask.shape[0])


def _num_nodes(layout: TreeLayout) -> Tensor:
    return (layout.depth >= 0).sum(-1)


def _check_lens(op: str, layout: TreeLayout, prefix_lens: Tensor) -> None:
    check_kind(op, "layout.depth", layout.depth, torch.int32)
    batch = layout.depth.shape[0]
    check(op, "prefix_lens", prefix_lens, [batch], torch.int32, layout.depth.device)
    refuse_first(op, "prefix_lens", "not negative", prefix_lens, prefix_lens < 0)
