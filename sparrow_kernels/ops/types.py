"""The named tuples that ops take and return. All fields are tensors on one device.

`torch.load(weights_only=True)` takes them once this module is imported, which any op does:
`from sparrow_kernels import TreeLayout` is enough.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TreeLayout(NamedTuple):
    """A batch of draft trees, as `build_tree` lays them out. W = ceil(T / 64).

    Fields:
        parent: `[B, T]` int32, as given; -1 at the root and at padding.
        depth: `[B, T]` int32: root 0, padding -1.
        ancestors: `[B, T, W]` int64, raw bit patterns: bit j % 64 of word j // 64 is set iff node j
            is the row's node or an ancestor of it. Padding rows are 0.
        first_child: `[B, T]` int32: the lowest-numbered child, -1 for none.
        next_sibling: `[B, T]` int32: the next higher-numbered child of the same parent, -1 for
            none.
        status: `[B]` int32: 0 for a well-formed tree, else its first bad node + 1 (such a tree
            counts as its root alone).
    """

    parent: Tensor
    depth: Tensor
    ancestors: Tensor
    first_child: Tensor
    next_sibling: Tensor
    status: Tensor


class Acceptance(NamedTuple):
    """What one verification decided, per request. S = `max_path`.

    Fields:
        path: `[B, S]` int32 accepted nodes, the root first, padded with -1.
        accept_length: `[B]` int32 accepted draft tokens, without root and bonus; -1 for an idle
            request.
        tokens: `[B, S]` int64 emitted tokens: the accepted draft tokens, then the bonus, padded
            with -1.
    """

    path: Tensor
    accept_length: Tensor
    tokens: Tensor


class AnchorIndex(NamedTuple):
    """The slots a draft may always see, in a form kernels can loop over without a search.

    Fields:
        slots: `[B, A]` int32 ascending anchor slots; N past `count`.
        count: `[B]` int32 number of anchors.
        rank: `[B, N + 1]` int32: `rank[s]` anchors lie below slot s.
    """

    slots: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    rank: Tensor


Attended = tuple[Tensor, Tensor]
"""What attention returns with its log-sum-exp: `[B, Hq, T, D]`, and `[B, Hq, T]` natural log."""

torch.serialization.add_safe_globals([TreeLayout, Acceptance, AnchorIndex])
