"""Tree attention on a CPU from PyTorch's own kernels where keys have a bias each.

The slots that every row sees go through the flash kernel with the bias as its mask, broadcast over
rows; those that only some rows see are scored densely, with the bias in theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.attention.parts import Part, attend_all, attend_biased
from sparrow_kernels.ops.attention.reference import merge_attention
from sparrow_kernels.ops.attention.seen import AnchoredPart, TreePart


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor,
    tree: TreePart,
    part: AnchoredPart | None,
    start: int,
    length: int,
    scale: float,
) -> Part:
    """Query `[1, Hkv, G * T, D]` of one request to what it sees of key and value `[1, Hkv, N, D]`
    under key_bias `[Hkv | 1, N]`."""
    rows, kind = query.shape[2], query.dtype
    dtype = torch.float64 if kind == torch.float64 else torch.float32
    every = torch.arange(start if part is None else part.window_start, length)
    some = torch.tensor(tree.slots, dtype=torch.int64) + length
    row_bias = tree.bias
    if row_bias is None:
        row_bias = torch.zeros((rows, len(tree.slots)), dtype=dtype)
    if part is not None:
        every = torch.cat((part.anchors, every))
        some = torch.cat((part.edge, some))
        row_bias = torch.cat((part.edge_bias, row_bias), 1)
    outs, lses = [], []
    if every.numel() or not some.numel():
        bias = key_bias[:, every].to(dtype)
        out, lse = attend_all(query, *_kept(key, value, every, bias), scale, bias[None, :, None])
        # What the kernel says of a row that sees nothing differs from release to release.
        blind = (bias == -torch.inf).all(-1).view(1, -1, 1).expand(lse.shape)
        outs.append(out.masked_fill(blind.unsqueeze(-1), 0.0))
        lses.append(lse.masked_fill(blind, -torch.inf))
    if some.numel():
        bias = torch.where(some < length, key_bias[:, some.clamp(max=key_bias.shape[1] - 1)], 0.0)
        keys, values = (rows[0] for rows in _kept(key, value, some, bias))
        both = (row_bias + bias.to(dtype).unsqueeze(1)).expand(key.shape[1], -1, -1)
        out, lse = attend_biased(query[0], keys, values, both, scale)
        outs.append(out.unsqueeze(0))
        lses.append(lse.unsqueeze(0))
    return merge_attention(outs, lses) if len(outs) > 1 else (outs[0], lses[0])


def _kept(key: Tensor, value: Tensor, slots: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `slots` of key and value; zeros, whatever lies there, where the bias takes them away."""
    lost = (bias == -torch.inf).unsqueeze(-1)
    keys, values = key.index_select(2, slots), value.index_select(2, slots)
    if not bool(lost.any()):
        return keys, values
    return keys.masked_fill(lost, 0.0), values.masked_fill(lost, 0.0)
