"""The training forward: several self-fed passes over whole sequences, as decoding makes them.

While a chain grows, the draft reads its own outputs where the target's states are not known yet.
Training does the same for every row of a sequence at once. Pass 1 reads the target's states, and
its rows are the committed rows of decoding. In pass j row i stands for a node at depth j - 1 whose
root is row i - (j - 1):

    previous state   the draft's own output of pass j - 1 at row i - 1
    sees             pass 1 of rows <= i - (j - 1), and its own chain: pass d of row i - (j - d)
                     for d = 2 … j

So a row costs `R + passes` scores, not `R * passes`. What it sees of pass 1 is attended to by
`anchored_window_attention`, whose memory is linear in the rows, and its own chain is merged to that
by the log-sum-exp. The idea is EAGLE-3's training-time test (arXiv 2503.01840); Sparrow (arXiv
2602.15318) makes two passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparrow_kernels.drafting.network import DraftNetwork
from sparrow_kernels.drafting.rotary import rotary, rotate
from sparrow_kernels.ops.attention import anchored_window_attention


class ClipKeys(NamedTuple):
    """Rows that stand for clips past `fc`, padded on the right."""

    rows: Tensor
    """`[B, C, H]`."""
    positions: Tensor
    """`[B, C]` int64."""
    counts: Sequence[int]
    """How many of them each sequence has."""


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
    clip: ClipKeys | None = None,
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
        clip: rows that stand for clips. All rows from `first_row` on see them: a clip lies before
            what is emitted, and the layer is one, so what lies before it need not be known.

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

    def projected(rows: Tensor, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated q and k, and v, of rows at positions `where` `[B | 1, n]`."""
        query, key, value = network.query_key_value(rows)
        cos, sin = rotary(where[:, None], head_dim, theta, value.dtype)
        # Under autocast a norm may leave q and k in another dtype than v.
        query, key = query.to(value.dtype), key.to(value.dtype)
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    rows = network.rows(embeddings, hidden, 0, shift)
    query, key, value = projected(rows, positions)
    seen = torch.ones(key.shape[0], key.shape[2], dtype=torch.bool, device=key.device)
    if clip is not None:
        _, clip_key, clip_value = projected(clip.rows, clip.positions)
        key, value = torch.cat([clip_key, key], dim=2), torch.cat([clip_value, value], dim=2)
        counts = torch.tensor(clip.counts, device=key.device)
        is_clip = torch.arange(clip_key.shape[2], device=key.device) < counts[:, None]
        seen = torch.cat([is_clip, seen], dim=1)
    committed = _Committed(key, value, seen, clip is None or len(set(clip.counts)) == 1)
    rows, query = rows[:, first_row:], query[:, :, first_row:]
    shift = None if shift is None else shift[:, first_row:]
    outputs = [network.finish(rows, committed.attend(query, 0)[0])]
    chain: list[tuple[Tensor, Tensor]] = []
    for depth in range(1, passes):
        fed = _shifted(outputs[-1], 1)
        rows = network.rows(embeddings[:, first_row:], fed, depth, shift)
        query, key, value = projected(rows, positions[:, first_row:])
        chain.append((key, value))
        outputs.append(network.finish(rows, _merged(query, *committed.attend(query, depth), chain)))
    return outputs


class _Committed(NamedTuple):
    """Pass 1: keys and values `[B, Hkv, S, D]`, which `[B, S]` bool there are, and if all are."""

    key: Tensor
    value: Tensor
    seen: Tensor
    are_all_seen: bool

    def attend(self, query: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """Attention of the last rows' `query` `[B, Hq, n, D]`, each a node at `depth` which sees
        what its root saw: out `[B, Hq, n, D]`, 0 for rows without a root, and lse `[B, Hq, n]`."""
        end = self.key.shape[2] - depth
        if query.shape[2] <= depth:
            return torch.zeros_like(query), query.new_full(query.shape[:3], -torch.inf)
        out, lse = anchored_window_attention(
            query[:, :, depth:],
            self.key[:, :, :end],
            self.value[:, :, :end],
            self.seen[:, :end],
            window=end if self.are_all_seen else 0,
            return_lse=True,
        )
        return F.pad(out, (0, 0, depth, 0)), F.pad(lse, (depth, 0), value=-torch.inf)


def _merged(query: Tensor, out: Tensor, lse: Tensor, chain: list[tuple[Tensor, Tensor]]) -> Tensor:
    """`[B, Hq, n, D]`: attention to pass 1, `out` and `lse`, and to a row's own chain.

    chain: keys and values `[B, Hkv, n, D]` of pass 2, 3 … and the newest.
    """
    heads, scale = chain[0][0].shape[1], query.shape[-1] ** -0.5
    grouped = query.unflatten(1, (heads, -1))
    scores, values = [lse.unflatten(1, (heads, -1))], [out.unflatten(1, (heads, -1))]
    for back, (key, value) in zip(range(len(chain) - 1, -1, -1), chain, strict=True):
        score = (grouped * _shifted(key, back)[:, :, None]).sum(dim=-1) * scale
        scores.append(score.to(lse.dtype))
        values.append(_shifted(value, back)[:, :, None])
    weights = torch.stack(scores, dim=-1).softmax(dim=-1).to(query.dtype)
    attended = torch.zeros_like(grouped)
    for weight, value in zip(weights.unbind(-1), values, strict=True):
        attended = attended + weight[..., None] * value
    return attended.flatten(1, 2)


def _shifted(rows: Tensor, by: int) -> Tensor:
    """`[..., R, n]` with row i at row i + by; zeros come in at the front."""
    return F.pad(rows, (0, 0, by, 0))[..., : rows.shape[-2], :] if by else rows
