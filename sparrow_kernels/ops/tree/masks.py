"""Ancestor bits as boolean masks and back: plain PyTorch, for attention code that wants a mask.

`tree_attention` reads the bits themselves and never builds a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops import env
from sparrow_kernels.ops.errors import Size, check_integer, check_tensor, refuse, refuse_type
from sparrow_kernels.ops.types import TreeLayout
from sparrow_kernels.ops.values import refuse_first

WORD = 64


def pack_ancestors(mask: Tensor) -> Tensor:
    """Pack rows of booleans into 64-bit words: bit j % 64 of word j // 64 is `mask[..., j]`.

    Args:
        mask: `[B, T, T]` bool; row i marks node i and its ancestors.

    Returns:
        `[B, T, W]` int64 bit patterns, W = ceil(T / 64); bit 63 is the sign, and just a bit.

    Raises:
        ValueError: wrong shape. TypeError: wrong dtype.

    Equivalent to:

    >>> mask = torch.rand(1, 70, 70) < 0.5
    >>> bits = sum(1 << j for j in range(70) if mask[0, 5, j])
    >>> [word % 2**64 for word in pack_ancestors(mask)[0, 5].tolist()] == [bits % 2**64, bits >> 64]
    True
    """
    check_tensor("pack_ancestors", "mask", mask, "B T T", torch.bool)
    size = mask.shape[-1]
    words = (size + WORD - 1) // WORD
    padded = torch.nn.functional.pad(mask, (0, words * WORD - size))
    bit = torch.arange(WORD, device=mask.device)
    # The bits of a word are distinct powers of two, so their sum is their union; the one negative
    # power, bit 63, makes the sum the right signed pattern without overflow.
    return (padded.unflatten(-1, (words, WORD)).long() << bit).sum(-1)


def unpack_ancestors(ancestors: Tensor, T: int) -> Tensor:
    """The booleans that `pack_ancestors` packed.

    Args:
        ancestors: `[B, T, W]` int64 bit patterns.
        T: how many bits of each row to unpack, at most 64 * W.

    Returns:
        `[B, T, T]` bool.

    Raises:
        ValueError: wrong shape or more bits than words hold. TypeError: wrong dtype.

    Equivalent to:

    >>> words = torch.tensor([[[5, -(2**63)]]])
    >>> mask = unpack_ancestors(words, 128)
    >>> mask.nonzero()[:, 2].tolist()
    [0, 2, 127]
    """
    check_tensor("unpack_ancestors", "ancestors", ancestors, "B R W", torch.int64)
    check_integer("unpack_ancestors", "T", T)
    if not 0 <= T <= WORD * ancestors.shape[-1]:
        refuse("unpack_ancestors", "T", f"in 0..64 * W = {WORD * ancestors.shape[-1]}", T)
    bit = torch.arange(WORD, device=ancestors.device)
    # The shift is arithmetic: it drags copies of bit 63 along, which the mask of one bit drops.
    return ((ancestors[..., None] >> bit) & 1).flatten(-2)[..., :T].bool()


def dense_tree_mask(
    layout: TreeLayout, prefix_lens: Tensor, capacity: int, prefix_starts: Tensor | None = None
) -> Tensor:
    """Which cache slots each node sees, as a mask for ordinary attention code.

    Node i sees the committed slots [prefix_start, prefix_len) and slot prefix_len + j for each of
    its ancestors j, itself included. A padding row sees the prefix; slots past `capacity` do not
    exist.

    Args:
        layout: `TreeLayout` of B trees with T nodes.
        prefix_lens: `[B]` int32 committed slots of each request, in 0..capacity.
        capacity: N, the slots of the cache.
        prefix_starts: `[B]` int32 first committed slot (left padding), in 0..prefix_len; None: 0.

    Returns:
        `[B, 1, T, capacity]` bool, True where a node sees a slot.

    Raises:
        ValueError: wrong shape; with value checks on (and not under `torch.compile`) also lengths
            out of range.
        TypeError: wrong dtype or device.

    Equivalent to:

    >>> layout = build_tree(torch.tensor([[-1, 0, 0, 2]], dtype=torch.int32))
    >>> mask = dense_tree_mask(layout, torch.tensor([3], dtype=torch.int32), capacity=8)
    >>> sees = [{0}, {0, 1}, {0, 2}, {0, 2, 3}]
    >>> mask[0, 0].tolist() == [[s < 3 or s - 3 in row for s in range(8)] for row in sees]
    True
    """
    if not isinstance(layout, TreeLayout):
        refuse_type("dense_tree_mask", "layout", "a TreeLayout", type(layout).__name__)
    device, size = layout.ancestors.device, layout.depth.shape[1]
    sizes: dict[str, Size] = {"B": layout.depth.shape[0]}
    check_tensor("dense_tree_mask", "prefix_lens", prefix_lens, "B", torch.int32, sizes, device)
    if prefix_starts is not None:
        check_tensor(
            "dense_tree_mask", "prefix_starts", prefix_starts, "B", torch.int32, sizes, device
        )
    check_integer("dense_tree_mask", "capacity", capacity)
    if capacity < 0:
        refuse("dense_tree_mask", "capacity", "at least 0", capacity)
    # Neither a compiled graph nor an example of vmap can look at values; the ops that follow check
    # their own lengths.
    is_traced = torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack()
    if not is_traced and not prefix_lens.is_meta and env.are_checked(device.type):
        _check_lengths(prefix_lens, capacity, prefix_starts)
    slot = torch.arange(capacity, device=device)
    node = slot - prefix_lens[:, None]  # the tree node that lies in each slot, if in [0, T)
    committed = node < 0
    if prefix_starts is not None:
        committed &= slot >= prefix_starts[:, None]
    holds_node = (node >= 0) & (node < size)
    sees = unpack_ancestors(layout.ancestors, size)
    column = node.clamp(0, size - 1)[:, None, :].expand(-1, size, -1)
    mask = sees.gather(2, column) & holds_node[:, None, :] | committed[:, None, :]
    return mask[:, None]


def _check_lengths(prefix_lens: Tensor, capacity: int, prefix_starts: Tensor | None) -> None:
    refuse_first(
        "dense_tree_mask",
        "prefix_lens",
        f"in 0..capacity = {capacity}",
        prefix_lens,
        (prefix_lens < 0) | (prefix_lens > capacity),
    )
    if prefix_starts is not None:
        bad = (prefix_starts < 0) | (prefix_starts > prefix_lens)
        refuse_first("dense_tree_mask", "prefix_starts", "in 0..prefix_len", prefix_starts, bad)
