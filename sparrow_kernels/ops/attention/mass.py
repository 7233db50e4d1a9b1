"""The definition of the weight that committed slots receive, in plain PyTorch.

Scores are made for `_ROWS` rows and `_SLOTS` slots at a time: nothing grows with rows times slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.attention import reference
from sparrow_kernels.ops.pages import num_slots

_ROWS, _SLOTS = 256, 1024


def attention_mass(
    query: Tensor,
    key: Tensor,
    prefix_lens: Tensor,
    scale: float,
    block_table: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """See `sparrow_kernels.attention_mass`. Reads the lengths on the host; not for capture."""
    batch, _, rows, head_dim = query.shape
    kv_heads, slots = key.shape[1], num_slots(key, block_table)
    mass = torch.zeros((batch, kv_heads, slots), dtype=torch.float32, device=query.device)
    if query.numel() == 0 or key.numel() == 0:
        return mass
    if lse is None:
        no_words = torch.zeros((batch, rows, 1), dtype=torch.int64, device=query.device)
        lse = reference.tree_attention(
            query, key, key, no_words, prefix_lens, *[None] * 6, scale, None, block_table
        )[1]
    dtype = reference.accumulation_dtype(query.dtype)
    for b, length in enumerate(prefix_lens.tolist()):
        cache = reference.Slots.of(b, key, key, block_table, None)
        queries = query[b].reshape(kv_heads, -1, head_dim).split(_ROWS, 1)
        lses = lse[b].reshape(kv_heads, -1, 1).to(dtype).split(_ROWS, 1)
        for first in range(0, min(max(length, 0), slots), _SLOTS):
            own = torch.arange(first, min(first + _SLOTS, length, slots), device=query.device)
            keys = cache.rows(own)[0].to(dtype).mT
            for some, some_lse in zip(queries, lses, strict=True):
                weights = ((some.to(dtype) @ keys) * scale - some_lse).exp()
                # A row that sees nothing gives nothing.
                weights = weights.masked_fill(some_lse == -torch.inf, 0.0)
                mass[b, :, first : first + own.numel()] += weights.sum(1).float()
    return mass
