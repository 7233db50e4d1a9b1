"""The training forward: several self-fed passes over whole sequences, as decoding makes them.

While a chain grows, the draft reads its own outputs where the target's states are not known yet.
Training does the same for every row of a sequence at once. Pass 1 reads the target's states, and
its rows are the committed rows of decoding. In pass j row i stands for a node at depth j - 1 whose
root is row i - (j - 1):

    previous state   the draft's own output of pass j - 1 at row i - 1
    sees             pass 1 of rows <= i - (j - 1), and its own chain: pass d of row i - (j - d)
                     for d = 2 … j

So a row costs `R + passes` scores, not `R * passes`. The idea is EAGLE-3's training-time test
(arXiv 2503.01840); Sparrow (arXiv 2602.15318) makes two passes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparrow_kernels.drafting.network import DraftNetwork
from sparrow_kernels.drafting.rotary import rotary, rotate


def self_fed_outputs(
    network: DraftNetwork,
    embeddings: Tensor,
    hidden: Tensor,
    passes: int,
    theta: float,
    first_row: int = 0,
    *,
    positions: Tensor | None = None,
    shift: Tensor | None = None,
    clip: tuple[Tensor, Tensor] | None = None,
) -> list[Tensor]:
    """The draft's outputs in each of `passes` passes: as many `[B, R - first_row, H]`.

    Rows are numbered as in `drafting.state`: row i holds text token x_(i+1) and has position i.
    The first j - 1 rows of pass j have no root; they are finite, and mean nothing. Sequences of
    different lengths are padded on the right: rows only look back. Differentiable.

    Args:
        network: the draft layer.
        embeddings: `[B, R, H]` the target's embeddings of the text tokens.
        hidden: `[B, R, state_width]` for each the target's state at the slot before it: the top
            one, or those of several layers side by side.
        passes: how many; 1 is training on the target's states alone.
        theta: base of the rotary embedding.
        first_row: the first row a tree may be rooted at. Rows before it, a prompt's, are seen but
            have no outputs, as in a draft prefill.
        positions: `[B, R]` int64 where a row's is not its number.
        shift: `[B, R, H]` what clips add to rows.
        clip: rows `[B, C, H]` that stand for a clip past `fc`, and their positions `[B, C]`. All
            rows from `first_row` on see them: a clip lies before what is emitted, and the layer is
            one, so what lies before it need not be known.

    Raises:
        ValueError: `passes` below 1, `first_row` outside the rows, or shapes that differ.
    """
    length, head_dim = embeddings.shape[1], network.shape.head_dim
    if passes < 1:
        raise ValueError(f"self_fed_outputs: passes must be at least 1, got {passes}")
    if not 0 <= first_row < length:
        raise ValueError(f"self_fed_outputs: first_row must be 0 … {length - 1}, got {first_row}")
    states = [*embeddings.shape[:-1], network.shape.state_width or network.shape.hidden]
    if list(hidden.shape) != states:
        raise ValueError(
            f"self_fed_outputs: hidden must be [B, R, state_width] = {states}, got"
            f" {list(hidden.shape)}"
        )
    if positions is None:
        positions = torch.arange(length, device=hidden.device)[None]
    groups = network.shape.heads // network.shape.kv_heads

    def projected(rows: Tensor, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated q and k, and v, of rows at positions `where` `[B | 1, n]`."""
        query, key, value = network.query_key_value(rows)
        cos, sin = rotary(where[:, None], head_dim, theta, rows.dtype)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        return query, key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)

    rows = network.rows(embeddings, hidden, 0, shift)
    query, key, value = projected(rows, positions)
    if clip is not None:
        _, clip_key, clip_value = projected(*clip)
        key, value = torch.cat([clip_key, key], dim=2), torch.cat([clip_value, value], dim=2)
    keys, values = [key], [value]
    rows, query = rows[:, first_row:], query[:, :, first_row:]
    shift = None if shift is None else shift[:, first_row:]
    outputs = [network.finish(rows, _attend(query, keys, values))]
    for depth in range(1, passes):
        fed = _shifted(outputs[-1], 1)
        rows = network.rows(embeddings[:, first_row:], fed, depth, shift)
        query, key, value = projected(rows, positions[:, first_row:])
        keys.append(key)
        values.append(value)
        outputs.append(network.finish(rows, _attend(query, keys, values)))
    return outputs


def _attend(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """Attention of the newest pass.

    query `[B, Hq, n, D]` of the last n rows; keys and values one a pass, pass 1's of all rows,
    `[B, Hq, R, D]`, the others' of the last n.
    """
    depth, (count, length) = len(keys) - 1, (query.shape[2], keys[0].shape[2])
    query = query * query.shape[-1] ** -0.5
    committed = query @ keys[0].transpose(-1, -2)
    unseen = torch.ones(count, length, dtype=torch.bool, device=query.device)
    unseen = unseen.triu(1 - depth + length - count)
    # The lowest finite score, not -inf: a row without a root still sees its own chain.
    scores = [committed.masked_fill(unseen, torch.finfo(committed.dtype).min)]
    chain_values = []
    for back, key, value in zip(range(depth - 1, -1, -1), keys[1:], values[1:], strict=True):
        scores.append((query * _shifted(key, back)).sum(dim=-1, keepdim=True))
        chain_values.append(_shifted(value, back))
    weights = torch.cat(scores, dim=-1).softmax(dim=-1)
    attended = weights[..., :length] @ values[0]
    for number, value in enumerate(chain_values):
        attended = attended + weights[..., length + number, None] * value
    return attended


def _shifted(rows: Tensor, by: int) -> Tensor:
    """`[..., R, n]` with row i at row i + by; zeros come in at the front."""
    return F.pad(rows, (0, 0, by, 0))[..., : rows.shape[-2], :] if by else rows
