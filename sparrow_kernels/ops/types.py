"""The named tuples that ops take and return. All fields are tensors on one device."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TreeLayout(NamedTuple):
    """A batch of draft trees, as `build_tree` lays them out. W = ceil(T / 64)."""

    parent: Tensor
    """`[B, T]` int32, as given; -1 at the root and at padding."""
    depth: Tensor
    """`[B, T]` int32: root 0, padding -1."""
    ancestors: Tensor
    """`[B, T, W]` int64, raw bit patterns: bit j % 64 of word j // 64 is set iff node j is the
    row's node or an ancestor of it. Padding rows are 0."""
    first_child: Tensor
    """`[B, T]` int32: the lowest-numbered child, -1 for none."""
    next_sibling: Tensor
    """`[B, T]` int32: the next higher-numbered child of the same parent, -1 for none."""
    status: Tensor
    """`[B]` int32: 0 for a well-formed tree, else its first bad node + 1 (such a tree counts as
    its root alone)."""


class Acceptance(NamedTuple):
    """What one verification decided, per request. S = `max_path`."""

    path: Tensor
    """`[B, S]` int32 accepted nodes, the root first, padded with -1."""
    accept_length: Tensor
    """`[B]` int32 accepted draft tokens, without root and bonus; -1 for an idle request."""
    tokens: Tensor
    """`[B, S]` int64 emitted tokens: the accepted draft tokens, then the bonus, padded with -1."""


class AnchorIndex(NamedTuple):
    """The slots a draft may always see, in a form kernels can loop over without a search."""

    slots: Tensor
    """`[B, A]` int32 ascending anchor slots; N past `count`."""
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    """`[B]` int32 number of anchors."""
    rank: Tensor
    """`[B, N + 1]` int32: `rank[s]` anchors lie below slot s."""
