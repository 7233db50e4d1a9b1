"""Trees in sgl-kernel's encoding: positions, links and masks of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparrow_kernels import TreeLayout, build_tree, unpack_ancestors
from sparrow_kernels.integrations.arguments import FLAGS, INTEGERS, check, refuse
from sparrow_kernels.integrations.sglang.buffers import flat, write

FULL, TREE_ONLY, PACKED = 0, 1, 2
_PACKED_DTYPES = (torch.uint8, torch.uint16, torch.uint32, torch.int16, torch.int32)
MOST_PACKED = 32


def build_tree_kernel_efficient(
    parent_list: Tensor,
    selected_index: Tensor,
    verified_seq_len: Tensor,
    tree_mask: Tensor,
    positions: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    topk: int,
    depth: int,
    draft_token_num: int,
    tree_mask_mode: int,
) -> None:
    """Lay out the trees that were selected from a grown history, as sgl-kernel does.

    The parent of node i >= 1: with `group = selected_index[b, i - 1] // topk`, the root for group
    0, else the node that was selected with flat index `parent_list[b, group]`.

    Args:
        parent_list: `[B, topk * (depth - 1) + 1]` int64; `[B, 0]` will do where depth is 1.
        selected_index: `[B, N - 1]` int64, ascending flat indices into the grown history.
        verified_seq_len: `[B]` int32 or int64 committed slots.
        tree_mask: written; a node sees itself and its ancestors. Mode 0 (full): bool, request by
            request N rows of `seq_len + N`, of which the last N are written and the prefix is left
            as prefilled. Mode 1 (tree only): bool, B * N * N. Mode 2 (packed): B * N rows of 1, 2
            or 4 bytes for N up to 8, 16, 32; bit j of the little-endian row is node j.
        positions: `[B * N]` int32 or int64, written: `seq_len + depth` of each node.
        retrieve_index: `[B, N]` int32 or int64, written: `b * N + i`.
        retrieve_next_token: likewise, written: the lowest child, -1 none.
        retrieve_next_sibling: likewise, written: the next child of the same parent, -1 none.
        topk: children a node was grown.
        depth: levels that were grown.
        draft_token_num: N, the root included.
        tree_mask_mode: 0, 1 or 2.

    Raises:
        ValueError: wrong shape, mode or size of a buffer, more than 32 nodes packed; on a CPU also
            a selection that is no tree and, in mode 0, a mask too small for its lengths. On a GPU
            nobody waits to look at values: such a tree counts as its root alone, and of such a
            mask what exists is written.
        TypeError: wrong dtype or device.
    """
    op, device = "build_tree_kernel_efficient", selected_index.device
    nodes = draft_token_num
    if nodes < 1 or topk < 1 or depth < 1:
        refuse(op, "topk, depth, draft_token_num", "at least 1", [topk, depth, nodes])
    check(op, "verified_seq_len", verified_seq_len, [-1], INTEGERS, device)
    batch = verified_seq_len.shape[0]
    check(op, "selected_index", selected_index, [batch, nodes - 1], INTEGERS, device)
    groups = topk * (depth - 1) + 1
    if depth == 1 and parent_list.shape == (batch, 0):
        parent_list = selected_index.new_zeros(batch, 1)  # group 0 alone exists; nobody reads it
    check(op, "parent_list", parent_list, [batch, groups], INTEGERS, device)
    links = _Links(positions, retrieve_index, retrieve_next_token, retrieve_next_sibling)
    links = links.checked(op, batch * nodes, device)

    group = torch.div(selected_index, topk, rounding_mode="floor")
    wanted = parent_list.long().gather(1, group.long().clamp(0, groups - 1))
    selected = selected_index.long().contiguous()
    place = torch.searchsorted(selected, wanted.contiguous()).clamp(max=nodes - 2)
    is_found = (selected.gather(1, place) == wanted) & (group > 0) & (group < groups)
    is_first = group == 0
    # A parent that was not selected is given as -1, which no node but the root may have.
    above = torch.where(is_first, 0, torch.where(is_found, 1 + place, -1))
    layout = _lay_out(op, torch.nn.functional.pad(above, (1, 0), value=-1))
    _write_mask(op, tree_mask, layout, verified_seq_len, tree_mask_mode)
    links.write(layout, verified_seq_len)


def reconstruct_indices_from_tree_mask(
    tree_mask: Tensor,
    verified_seq_len: Tensor,
    positions: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    batch_size: int,
    draft_token_num: int,
) -> None:
    """Positions and links of trees that are given as masks of mode 1 (tree only).

    A node's parent is the highest-numbered node below it that it sees.

    Args:
        tree_mask: `[B * N * N]` bool: row i of a request marks the ancestors of node i.
        verified_seq_len: `[B]` int32 or int64 committed slots.
        positions, retrieve_index, retrieve_next_token, retrieve_next_sibling: written, as by
            `build_tree_kernel_efficient`.
        batch_size: B.
        draft_token_num: N, the root included.

    Raises:
        ValueError: wrong shape; on a CPU also a node that sees no earlier one (on a GPU: such a
            tree counts as its root alone).
        TypeError: wrong dtype or device.
    """
    op, device = "reconstruct_indices_from_tree_mask", tree_mask.device
    batch, nodes = batch_size, draft_token_num
    if nodes < 1 or batch < 0:
        refuse(op, "batch_size, draft_token_num", "at least 0 and 1", [batch, nodes])
    check(op, "verified_seq_len", verified_seq_len, [batch], INTEGERS, device)
    sees = flat(op, "tree_mask", tree_mask, batch * nodes * nodes, FLAGS, device)
    links = _Links(positions, retrieve_index, retrieve_next_token, retrieve_next_sibling)
    links = links.checked(op, batch * nodes, device)
    number = torch.arange(nodes, device=device)
    is_above = sees.view(batch, nodes, nodes).bool() & (number < number[:, None])
    layout = _lay_out(op, torch.where(is_above, number, -1).amax(-1))
    links.write(layout, verified_seq_len)


def _lay_out(op: str, parent: Tensor) -> TreeLayout:
    try:
        return build_tree(parent.int())
    except ValueError as error:
        raise ValueError(f"{op}: the nodes must form a tree, got none ({error})") from None


class _Links(NamedTuple):
    """The flat buffers that say where nodes are; all `[B * N]`."""

    positions: Tensor
    indices: Tensor
    next_token: Tensor
    next_sibling: Tensor

    def checked(self, op: str, size: int, device: torch.device) -> _Links:
        """The first `size` elements of each, before anything is written anywhere."""
        names = ("positions", "retrieve_index", "retrieve_next_token", "retrieve_next_sibling")
        pairs = zip(names, self, strict=True)
        return _Links(*(flat(op, name, buffer, size, INTEGERS, device) for name, buffer in pairs))

    def write(self, layout: TreeLayout, verified_seq_len: Tensor) -> None:
        # The clamp is for the padding of a malformed tree.
        position = verified_seq_len[:, None] + layout.depth.clamp(min=0)
        self.positions.copy_(position.reshape(-1))
        self.indices.copy_(torch.arange(self.indices.shape[0], device=self.indices.device))
        self.next_token.copy_(layout.first_child.reshape(-1))
        self.next_sibling.copy_(layout.next_sibling.reshape(-1))


def _write_mask(
    op: str, tree_mask: Tensor, layout: TreeLayout, verified_seq_len: Tensor, mode: int
) -> None:
    (batch, nodes), device = layout.depth.shape, layout.depth.device
    if mode == FULL:
        _write_full(op, tree_mask, layout, verified_seq_len.long())
    elif mode == TREE_ONLY:
        sees = unpack_ancestors(layout.ancestors, nodes)
        flat(op, "tree_mask", tree_mask, sees.numel(), FLAGS, device).copy_(sees.reshape(-1))
    elif mode == PACKED:
        if nodes > MOST_PACKED:
            must_be = f"at most {MOST_PACKED} where the mask is packed (mode {PACKED})"
            hint = f"modes {FULL} and {TREE_ONLY} have no limit"
            refuse(op, "draft_token_num", must_be, nodes, hint)
        width = 1 if nodes <= 8 else 2 if nodes <= 16 else 4
        # One word of 64 bits holds a row; its low bytes are the packed row.
        low = 8 * torch.arange(width, device=device)
        packed = ((layout.ancestors >> low) & 0xFF).to(torch.uint8)
        item = 1 if not isinstance(tree_mask, Tensor) else tree_mask.element_size()
        elements = -(-batch * nodes * width // item)
        buffer = flat(op, "tree_mask", tree_mask, elements, _PACKED_DTYPES, device)
        buffer.view(torch.uint8)[: packed.numel()].copy_(packed.reshape(-1))
    else:
        refuse(op, "tree_mask_mode", f"{FULL}, {TREE_ONLY} or {PACKED}", mode)


def _write_full(op: str, tree_mask: Tensor, layout: TreeLayout, seq_len: Tensor) -> None:
    (_, nodes), device = layout.depth.shape, layout.depth.device
    buffer = flat(op, "tree_mask", tree_mask, tree_mask.numel(), FLAGS, device)
    width = seq_len + nodes
    end = (nodes * width).cumsum(0)
    if device.type == "cpu" and seq_len.numel() > 0:
        if int(seq_len.min()) < 0:
            refuse(op, "verified_seq_len", "not negative", seq_len.tolist())
        if int(end[-1]) > buffer.numel():
            must_be = f"of N * (seq_len + N) elements a request, {int(end[-1])} in all"
            refuse(op, "tree_mask", must_be, buffer.numel())
    number = torch.arange(nodes, device=device)
    start = (end - nodes * width)[:, None, None]
    row = start + number[:, None] * width[:, None, None]
    sees = unpack_ancestors(layout.ancestors, nodes)
    index = row + seq_len[:, None, None] + number
    write(buffer, index, sees, torch.ones_like(sees))
