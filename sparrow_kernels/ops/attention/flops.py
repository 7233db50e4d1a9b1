"""What `torch.utils.flop_counter.FlopCounterMode` counts of an attention call: what is seen.

Two products a seen pair of a row and a slot, of 2 D operations each. Lengths and masks are read, as
cost follows them here. For fake tensors, which have no values, every slot counts, as PyTorch counts
its own attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_WORD = 64


def tree_attention(*args: Any, **_: Any) -> int:
    """Of `tree_attention`, from its schema's first arguments."""
    query, key, _, ancestors, prefix_lens, prefix_starts = args[:6]
    anchor_rank, window, depth = args[8:11]
    _, heads, rows, head_dim = query.shape
    if _has_no_values(prefix_lens):
        return 4 * query.numel() * key.shape[2]
    starts = torch.zeros_like(prefix_lens) if prefix_starts is None else prefix_starts
    if anchor_rank is None or window is None or depth is None:
        committed = (prefix_lens - starts).clamp(min=0).sum() * rows
    else:
        rank, end = anchor_rank.long(), prefix_lens.long()[:, None]
        # The window's slots are all seen, and the anchors before it.
        first = torch.minimum(end + depth - window + 1, end).maximum(starts.long()[:, None])
        anchors = rank.gather(1, first) - rank.gather(1, starts.long()[:, None])
        committed = (end - first + anchors).clamp(min=0).sum()
    bits = (ancestors[..., None] >> torch.arange(_WORD, device=ancestors.device)) & 1
    return int(committed + bits.sum()) * heads * 4 * head_dim


def attention_mass(*args: Any, **_: Any) -> int:
    """Of `attention_mass`: scores, and once more where their log-sum-exp is not given."""
    query, key, prefix_lens, lse = args[0], args[1], args[2], args[5]
    batch, heads, rows, head_dim = query.shape
    seen = batch * key.shape[2] if _has_no_values(prefix_lens) else int(prefix_lens.sum())
    return (4 if lse is None else 2) * head_dim * heads * rows * seen


def _window_pairs(query: Tensor, anchor_mask: Tensor, window: int) -> int:
    """Pairs that are seen, over all heads."""
    batch, heads, rows, _ = query.shape
    length = anchor_mask.shape[1]
    if _has_no_values(anchor_mask):
        return batch * heads * rows * length
    row = torch.arange(length - rows, length, device=anchor_mask.device)
    first = (row - window + 1).clamp(min=0)
    before = torch.nn.functional.pad(anchor_mask.long().cumsum(1), (1, 0))
    seen = row + 1 - first + before[:, first]
    return int(seen.sum()) * heads


def window(*args: Any, **_: Any) -> int:
    """Of `anchored_window_attention`: scores, and their product with the values."""
    query, anchor_mask, window = args[0], args[3], args[4]
    return 4 * query.shape[-1] * _window_pairs(query, anchor_mask, window)


def window_backward(*args: Any, **_: Any) -> int:
    """Scores again, and the gradients of weights, values, keys and query."""
    query, anchor_mask, window = args[1], args[6], args[7]
    return 10 * query.shape[-1] * _window_pairs(query, anchor_mask, window)


def window_jvp(*args: Any, **_: Any) -> int:
    """Scores, the two products of their tangent, and one each with the values and theirs."""
    query, anchor_mask, window = args[0], args[5], args[6]
    return 10 * query.shape[-1] * _window_pairs(query, anchor_mask, window)


def _has_no_values(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) or tensor.is_meta
