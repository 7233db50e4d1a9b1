"""The draft's one decoder layer, in plain torch over our ops.

A row stands for one text token x_k. Its input is `fc([norm(embedding(x_k)); h_(k-1)])`, where
`h_(k-1)` is the target's top state at the sequence position before it (hidden state reuse); its
output approximates `h_k`, so that the target's own LM head turns it into the token after x_k.
The layer is shaped like a decoder layer of a Qwen2-style target: RMSNorm, grouped-query attention
with biased q, k and v, a gated SiLU MLP, and no norm before the LM head. Sparrow, arXiv 2602.15318.
For Qwen3-style targets q, k and v have no bias, and each head of q and k is normed before it is
rotated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerShape:
    """Sizes of a draft layer; `hidden` must equal the target's hidden size."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float = 1e-6
    attention_bias: bool = True
    query_key_norm: bool = False


class DraftNetwork(nn.Module):
    """`fc` and one decoder layer. Embedding and LM head are the target's and not held here."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.shape = shape
        hidden, head_dim = shape.hidden, shape.head_dim
        self.embedding_norm = nn.Parameter(torch.ones(hidden))
        self.fc = nn.Linear(2 * hidden, hidden)
        self.attention_norm = nn.Parameter(torch.ones(hidden))
        self.qkv = nn.Linear(
            hidden, (shape.heads + 2 * shape.kv_heads) * head_dim, bias=shape.attention_bias
        )
        if shape.query_key_norm:
            self.query_norm = nn.Parameter(torch.ones(head_dim))
            self.key_norm = nn.Parameter(torch.ones(head_dim))
        self.out = nn.Linear(shape.heads * head_dim, hidden, bias=False)
        self.mlp_norm = nn.Parameter(torch.ones(hidden))
        self.gate_up = nn.Linear(hidden, 2 * shape.intermediate, bias=False)
        self.down = nn.Linear(shape.intermediate, hidden, bias=False)

    def normed_embedding(self, embedding: Tensor) -> Tensor:
        """`[..., H]` embeddings, or states of the clip that bypass `fc`, through the input norm."""
        return self._norm(embedding, self.embedding_norm)

    def rows(self, embedding: Tensor, hidden: Tensor) -> Tensor:
        """Layer input `[..., H]` of text rows from embeddings and previous states `[..., H]`."""
        return self.fc(torch.cat([self.normed_embedding(embedding), hidden], dim=-1))

    def query_key_value(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, R, H]` -> q `[B, Hq, R, D]`, k and v `[B, Hkv, R, D]`, not yet rotated."""
        shape = self.shape
        batch, length, _ = rows.shape
        fused = self.qkv(self._norm(rows, self.attention_norm))
        heads = fused.view(batch, length, -1, shape.head_dim).transpose(1, 2)
        query, key, value = heads.split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        if shape.query_key_norm:
            query, key = self._norm(query, self.query_norm), self._norm(key, self.key_norm)
        return query, key, value

    def finish(self, rows: Tensor, attended: Tensor) -> Tensor:
        """The layer's second half. rows `[B, R, H]`, attended `[B, Hq, R, D]` -> `[B, R, H]`."""
        batch, length, _ = rows.shape
        rows = rows + self.out(attended.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(self._norm(rows, self.mlp_norm)).chunk(2, dim=-1)
        return rows + self.down(F.silu(gate) * up)

    def _norm(self, value: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(value, (value.shape[-1],), weight, self.shape.norm_eps)


def rotary_table(
    positions: int, head_dim: int, theta: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin `[positions, D]` of rotate-half rotary embedding for positions 0, 1, 2 …

    The draft's positions are compact and one-dimensional: a clip leaves no gap in them.
    """
    even = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
    inverse = theta ** (-even / head_dim)
    angles = torch.arange(positions, device=device, dtype=torch.float32)[:, None] * inverse
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate-half rotary embedding of `[B, heads, R, D]` by cos and sin `[..., R, D]`."""
    half = value.shape[-1] // 2
    turned = torch.cat([-value[..., half:], value[..., :half]], dim=-1)
    return value * cos + turned * sin
