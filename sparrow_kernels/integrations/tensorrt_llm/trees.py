"""Trees: packed masks, depths, and static trees as paths."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels import TreeLayout, build_tree
from sparrow_kernels.integrations.arguments import check, check_kind, refuse, refuse_first


def packed_mask(layout: TreeLayout, num_words: int | None = None) -> Tensor:
    """`spec_decoding_packed_mask` of a batch of trees.

    Args:
        layout: the trees, `[B, T]`.
        num_words: words of a row, at least ceil(T / 32), which is the default; TensorRT-LLM has
            `ceil((max_total_draft_tokens + 1) / 32)`.

    Returns:
        `[B, T, num_words]` int32, contiguous; rows of padding are 0. It shares the memory of
        `layout.ancestors` where a row has the same bytes in both.

    Raises:
        ValueError: too few words. TypeError: not a layout's tensors.
    """
    op, words = "packed_mask", layout.ancestors
    check_kind(op, "layout.ancestors", words, torch.int64)
    least = -(-words.shape[1] // 32)
    num_words = least if num_words is None else num_words
    if num_words < least:
        refuse(op, "num_words", f"at least {least} for {words.shape[1]} nodes", num_words)
    halves = words.contiguous().view(torch.int32)  # the low half of a word comes first
    return _resized(halves, num_words).contiguous()


def ancestors(packed_mask: Tensor) -> Tensor:
    """`spec_decoding_packed_mask` as the ancestor words of `tree_attention`.

    Args:
        packed_mask: `[B, N, words]` int32.

    Returns:
        `[B, N, ceil(words / 2)]` int64; a view where the number of words is even and they are
        contiguous. Bits past the tree must be 0, as TensorRT-LLM leaves them.

    Raises:
        ValueError: wrong shape. TypeError: wrong dtype.
    """
    check("ancestors", "packed_mask", packed_mask, [-1, -1, -1], torch.int32)
    words = packed_mask.shape[-1]
    return _resized(packed_mask, words + words % 2).contiguous().view(torch.int64)


def _resized(words: Tensor, size: int) -> Tensor:
    missing = size - words.shape[-1]
    return torch.nn.functional.pad(words, (0, missing)) if missing > 0 else words[..., :size]


def position_offsets(layout: TreeLayout) -> Tensor:
    """`spec_decoding_position_offsets` `[B, T]` int32: each node's depth, 0 in padding."""
    return layout.depth.clamp(min=0)


def generation_lengths(layout: TreeLayout) -> Tensor:
    """`spec_decoding_generation_lengths` `[B]` int32: nodes with the root, 0 of an idle request."""
    return (layout.depth >= 0).sum(-1, dtype=torch.int32)


def paths(layout: TreeLayout, max_path: int) -> Tensor:
    """A batch of trees as paths, as EAGLE's static trees have them: row i leads to node i.

    Args:
        layout: the trees, `[B, T]`.
        max_path: S, most nodes of a path, the root included (`max_draft_len + 1`).

    Returns:
        `[B, T, S]` int32, -1 behind a path's end; rows of padding are -1.

    Raises:
        ValueError: `max_path` below 1; where values are checked also a node deeper than that
            (else: its row is -1). TypeError: not a layout's tensors.
    """
    op, depth = "paths", layout.depth
    check_kind(op, "layout.depth", depth, torch.int32)
    if max_path < 1:
        refuse(op, "max_path", "at least 1", max_path)
    must_be = f"below max_path = {max_path}"
    refuse_first(op, "layout.depth", must_be, depth, depth >= max_path)
    batch, nodes = depth.shape
    rows = depth.new_full((batch, nodes, max_path), -1)
    if nodes == 0:
        return rows
    node = torch.arange(nodes, device=depth.device).expand(batch, nodes)
    place, is_path = depth.long(), (depth >= 0) & (depth < max_path)
    for _ in range(max_path):  # from every node at once up to the root, where it ends
        is_on = is_path & (place >= 0)
        column = torch.arange(max_path, device=depth.device) == place[..., None]
        rows = torch.where(column & is_on[..., None], node[..., None].int(), rows)
        node = layout.parent.long().gather(1, node).clamp(0, nodes - 1)
        place = place - 1
    return rows


def layout_of_paths(paths: Tensor, num_nodes: int) -> TreeLayout:
    """The trees of Medusa's and EAGLE's paths, as our ops take them.

    Args:
        paths: `[B, P, S]` int32; rows lead from the root, node 0, to a leaf (`medusa_paths`) or to
            every node (`eagle_paths`), -1 behind the end. Numbers rise along a path.
        num_nodes: T, nodes of a tree with the root. Nodes on no path must be the last: padding.

    Returns:
        A layout `[B, T]`; its `status` tells a malformed tree where values are not checked.

    Raises:
        ValueError: wrong shape; where values are checked also a number out of the tree, a path that
            does not begin with the root or goes on behind its end, a node with two parents, and
            what `build_tree` refuses. TypeError: wrong dtype.
    """
    op = "layout_of_paths"
    check(op, "paths", paths, [-1, -1, -1], torch.int32)
    if num_nodes < 1:
        refuse(op, "num_nodes", "at least 1", num_nodes)
    batch = paths.shape[0]
    wrong = (paths < -1) | (paths >= num_nodes)
    refuse_first(op, "paths", f"-1 or a node below num_nodes = {num_nodes}", paths, wrong)
    first = paths[..., :1]
    refuse_first(op, "paths", "0, the root, or -1 in column 0", first, (first != 0) & (first != -1))
    above, below = paths[..., :-1].flatten(1).long(), paths[..., 1:].flatten(1).long()
    bad = (below >= 0) & (above < 0)
    refuse_first(op, "paths", "-1 behind the end of a path", below, bad)
    is_link = (above >= 0) & (below >= 0) & (below < num_nodes)
    home = torch.where(is_link, below, num_nodes)  # one column more takes what is no link
    parent = above.new_full((batch, num_nodes + 1), -1).scatter_(1, home, above)
    bad = is_link & (parent.gather(1, home) != above)
    refuse_first(op, "paths", "with one parent a node", below, bad)
    last = torch.cat((paths.flatten(1).long(), home.new_full((batch, 1), -1)), 1).amax(1)
    return build_tree(parent[:, :num_nodes].int(), (last + 1).clamp(max=num_nodes).int())
