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
    batch, _, _, head_dim = query.shape
    kv_heads, slots = key.shape[1], num_slots(key, block_table)
    mass = torch.zeros((batch, kv_heads, slots), dtype=torch.float32, device=query.device)
    if query.numel() == 0 or key.numel() == 0:
        return mass
    dtype = reference.accumulation_dtype(query.dtype)
    for b, length in enumerate(prefix_lens.tolist()):
        if length <= 0:
            continue
        cache = reference.Slots.of(b, key, key, block_table, None)
        every = torch.arange(min(length, slots), device=query.device).split(_SLOTS)
        queries = query[b].reshape(kv_heads, -1, head_dim).to(dtype).split(_ROWS, 1)
        given = None if lse is None else lse[b].reshape(kv_heads, -1).to(dtype).split(_ROWS, 1)
        for number, rows in enumerate(queries):
            if given is None:
                parts = [_scores(rows, cache, own, scale).logsumexp(-1) for own in every]
                row_lse = torch.stack(parts).logsumexp(0)
            else:
                row_lse = given[number]
            # A row that sees nothing gives nothing.
            row_lse = row_lse.masked_fill(row_lse == -torch.inf, torch.inf).unsqueeze(-1)
            for own in every:
                weights = (_scores(rows, cache, own, scale) - row_lse).exp()
                mass[b, :, own[0] : own[-1] + 1] += weights.sum(1).float()
    return mass


def _scores(rows: Tensor, cache: reference.Slots, slots: Tensor, scale: float) -> Tensor:
    """`[Hkv, r, n]` of packed rows `[Hkv, r, D]`."""
    return (rows @ cache.rows(slots)[0].to(rows.dtype).mT) * scale
