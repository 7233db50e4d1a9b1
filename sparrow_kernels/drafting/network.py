"""The draft's one decoder layer, in plain torch over our ops.

A row stands for one text token x_k. It is made from the token's embedding and from what the target
knew at the sequence position before it (hidden state reuse); its output approximates the target's
top state h_k, so that an LM head turns it into the token after x_k. Two ways to put them together:

    joined before the layer   z = fc([emb; h]), and the layer reads z       EAGLE-2, MSD, Sparrow …
    side by side (`paired`)   g = fc(states of several layers), and the
                              layer's q, k and v read [norm(emb); norm(g)]  EAGLE-3

Where a tree grows the draft reads its own outputs in the place of h or g. The rest is a layer as
Llama or Qwen have it: grouped-query attention, a gated SiLU MLP. Which norms, biases and heads of
its own a draft has is written in its `LayerShape`. The defaults are Sparrow's, arXiv 2602.15318.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparrow_kernels.drafting.adaptor import ClipAdaptor


@dataclass(frozen=True)
class LayerShape:
    """Sizes of a draft's layer, and which parts it has."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float = 1e-6
    attention_bias: bool = True
    """Biases of q, k and v."""
    query_key_norm: bool = False
    """Each head of q and k is normed before it is rotated."""
    state_width: int | None = None
    """Width of the target's states that a row reads side by side; None for one of `hidden`."""
    paired: bool = False
    """The layer reads embedding and state side by side."""
    fc_bias: bool = True
    embedding_norm: bool = True
    attention_norm: bool = True
    """Of what the layer reads; of the state's half where they are side by side."""
    state_norms: int = 0
    """Norms of the target's states before `fc`: one over all of them, or one for each."""
    norm_before_residual: bool = False
    """Side by side: the residual is the normed state, not the state."""
    final_norm: bool = False
    """A norm before the LM head."""
    feeds_normed: bool = False
    """That norm is part of the output, which the next level of a tree then reads normed."""
    step_shifts: int = 0
    """Learned vectors that tell the levels of a tree apart, the committed rows' first (HiViS)."""
    clip_queries: int = 0
    """Learned queries that an adaptor reads a clip with (ViSpec)."""
    clip_heads: int = 0
    head_size: int = 0
    """Rows of an LM head of its own; 0 for the target's."""
    embedding_size: int = 0
    """Rows of an embedding of its own; 0 for the target's."""


class DraftNetwork(nn.Module):
    """`fc`, one decoder layer, and what else a draft holds of its own."""

    draft_ids: Tensor
    """`[head_size]` int64: the target's id of each row of the draft's own head."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.shape = shape
        hidden, head_dim = shape.hidden, shape.head_dim
        states = shape.state_width or hidden
        if shape.embedding_norm:
            self.embedding_norm = _norm_weight(hidden)
        if shape.state_norms:
            self.state_norm = nn.Parameter(
                torch.ones(shape.state_norms, states // shape.state_norms)
            )
        self.fc = nn.Linear(states + (0 if shape.paired else hidden), hidden, bias=shape.fc_bias)
        if shape.step_shifts:
            self.step_shift = nn.Parameter(torch.zeros(shape.step_shifts, hidden))
        if shape.clip_queries:
            self.adaptor = ClipAdaptor(hidden, shape.clip_heads, shape.clip_queries)
        if shape.attention_norm:
            self.attention_norm = _norm_weight(hidden)
        self.qkv = nn.Linear(
            2 * hidden if shape.paired else hidden,
            (shape.heads + 2 * shape.kv_heads) * head_dim,
            bias=shape.attention_bias,
        )
        if shape.query_key_norm:
            self.query_norm, self.key_norm = _norm_weight(head_dim), _norm_weight(head_dim)
        self.out = nn.Linear(shape.heads * head_dim, hidden, bias=False)
        self.mlp_norm = _norm_weight(hidden)
        self.gate_up = nn.Linear(hidden, 2 * shape.intermediate, bias=False)
        self.down = nn.Linear(shape.intermediate, hidden, bias=False)
        if shape.final_norm:
            self.final_norm = _norm_weight(hidden)
        if shape.embedding_size:
            self.embedding = nn.Embedding(shape.embedding_size, hidden)
        if shape.head_size:
            self.head = nn.Linear(hidden, shape.head_size, bias=False)
            self.register_buffer("draft_ids", torch.arange(shape.head_size))

    def normed_embedding(self, embedding: Tensor) -> Tensor:
        """`[..., H]` embeddings, or states of the clip that bypass `fc`, through the input norm."""
        return self._norm(embedding, "embedding_norm")

    def rows(
        self, embedding: Tensor, states: Tensor, depth: int = 0, shift: Tensor | None = None
    ) -> Tensor:
        """What the layer reads: `[..., H]`, or `[..., 2H]` where both go in side by side.

        Args:
            embedding: `[..., H]` of each row's token.
            states: at depth 0 the target's before it, `[..., state_width]`; deeper in a tree the
                draft's own outputs `[..., H]`.
            depth: the rows' depth in a tree, 0 for committed ones.
            shift: what a clip adds to rows, `[..., H]`; see `ClipAdaptor`.
        """
        shape = self.shape
        embedding = self.normed_embedding(embedding)
        if depth == 0 and shape.state_norms:
            parts = states.unflatten(-1, (shape.state_norms, -1))
            states = (self._rms(parts, None) * self.state_norm).flatten(-2)
        if shape.paired:
            state = self.fc(states) if depth == 0 else states
            if shape.norm_before_residual:
                state = self._norm(state, "attention_norm")
            return torch.cat([embedding, state], dim=-1)
        rows = self.fc(torch.cat([embedding, states], dim=-1))
        if shape.step_shifts:
            rows = rows + self.step_shift[min(depth, shape.step_shifts - 1)]
        return rows if shift is None else rows + shift

    def query_key_value(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, R, H | 2H]` -> q `[B, Hq, R, D]`, k and v `[B, Hkv, R, D]`, not yet rotated."""
        shape = self.shape
        batch, length, _ = rows.shape
        fused = self.qkv(self._read(rows))
        count = shape.heads + 2 * shape.kv_heads
        heads = fused.view(batch, length, count, shape.head_dim).transpose(1, 2)
        query, key, value = heads.split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        if shape.query_key_norm:
            query, key = self._norm(query, "query_norm"), self._norm(key, "key_norm")
        return query, key, value

    def finish(self, rows: Tensor, attended: Tensor) -> Tensor:
        """The layer's second half: `[B, R, H | 2H]` and `[B, Hq, R, D]` -> outputs `[B, R, H]`."""
        batch, length, _ = rows.shape
        rows = rows[..., -self.shape.hidden :]
        rows = rows + self.out(attended.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(self._norm(rows, "mlp_norm")).chunk(2, dim=-1)
        rows = rows + self.down(F.silu(gate) * up)
        return self._norm(rows, "final_norm") if self.shape.feeds_normed else rows

    def headed(self, outputs: Tensor) -> Tensor:
        """Outputs `[..., H]` as the LM head reads them."""
        is_done = self.shape.feeds_normed or not self.shape.final_norm
        return outputs if is_done else self._norm(outputs, "final_norm")

    def _read(self, rows: Tensor) -> Tensor:
        shape = self.shape
        if not shape.paired:
            return self._norm(rows, "attention_norm")
        if shape.norm_before_residual:
            return rows
        embedding, state = rows.split(shape.hidden, dim=-1)
        return torch.cat([embedding, self._norm(state, "attention_norm")], dim=-1)

    def _norm(self, value: Tensor, name: str) -> Tensor:
        """Through the norm of this name, where the draft has it."""
        weight = self._parameters.get(name)
        return value if weight is None else self._rms(value, weight)

    def _rms(self, value: Tensor, weight: Tensor | None) -> Tensor:
        return F.rms_norm(value, (value.shape[-1],), weight, self.shape.norm_eps)


def _norm_weight(size: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(size))
