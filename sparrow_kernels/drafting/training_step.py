"""One training step of a draft, from what a frozen target left at its text rows. Torch only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparrow_kernels.drafting.clip_rows import clip_rows
from sparrow_kernels.drafting.losses import LossWeights, weighted_loss
from sparrow_kernels.drafting.network import DraftNetwork
from sparrow_kernels.drafting.self_feeding import self_fed_outputs


class TextRows(NamedTuple):
    """A batch of sequences, text rows only, padded on the right."""

    tokens: Tensor
    """`[B, R]` int64, the text tokens x_k with k >= 1."""
    hidden: Tensor
    """`[B, R, state_width]` for each the target's states at the slot before it, be that visual."""
    state: Tensor
    """`[B, R, H]` for each the target's top state at its own slot: what its output should be."""
    response: Tensor
    """`[B, R]` bool, rows a tree may be rooted at: their token was emitted, and the token after
    them may be drafted (so not the last row, and not the one before a stop id)."""
    positions: Tensor | None = None
    """`[B, R]` int64 where a row's is not its number."""
    embeddings: Tensor | None = None
    """`[B, R, H]` where they are not those of the tokens."""
    clip: Tensor | None = None
    """`[B, C, H]` what stands for one clip past `fc`, see `drafting.rows`."""
    clip_positions: Tensor | None = None
    """`[B, C]` int64."""
    runs_before: Tensor | None = None
    """`[B, R]` int64: 1 for rows behind the clip."""

    def of(self, sequences: Tensor | slice) -> TextRows:
        """Some of the sequences."""
        chosen: list[Any] = [None if each is None else each[sequences] for each in self]
        return TextRows(*chosen)


class StepResult(NamedTuple):
    """A step's loss, and how well the draft did in it."""

    loss: Tensor
    """Scalar, with autograd."""
    agreement: Tensor
    """`[passes]` share of counted rows whose best id is the target's best."""
    mean_emitted: Tensor
    """Scalar: tokens a target call would emit with a chain of `passes` drafted tokens, averaged
    over all roots. An estimate of decoding's own: that visits only some roots, and stops at
    stop ids."""


def draft_loss(
    network: DraftNetwork,
    embedding: nn.Module,
    lm_head: nn.Module,
    rows: TextRows,
    *,
    passes: int,
    weights: LossWeights,
    theta: float,
    sees_clip: str = "nothing",
) -> StepResult:
    """Forward and loss over a batch. `embedding` and `lm_head` are the target's, and frozen.

    A draft with an LM head of its own is held against the target's distribution over the ids that
    this head can say.
    """
    outputs, first = trained_outputs(network, embedding, rows, passes, theta, sees_clip)
    counted = response = rows.response[:, first:]
    state = rows.state[:, first:]
    with torch.no_grad():
        target_logits = lm_head(state)
        if network.shape.head_size:
            target_logits = target_logits[..., network.draft_ids]
        target_probs = target_logits.softmax(dim=-1)
        target_best = target_probs.argmax(dim=-1)
    loss = outputs[0].new_zeros(())
    agreement, accepted_all, accepted = [], counted, loss.detach()
    for number, output in enumerate(outputs):
        if number:
            counted = _after(counted) & response
            accepted_all = _after(accepted_all) & response
        headed = network.headed(output)
        logits = network.head(headed) if network.shape.head_size else lm_head(headed)
        part = weighted_loss(weights, output, logits, state, target_probs, counted)
        loss = loss + weights.pass_decay**number * part
        agrees = (logits.detach().argmax(dim=-1) == target_best) & counted
        accepted_all = accepted_all & agrees
        agreement.append(agrees.sum() / counted.sum().clamp_min(1))
        # Counted rows, so that chains cut by the end of a response do not count as refused.
        accepted = accepted + accepted_all.sum() / counted.sum().clamp_min(1)
    return StepResult(loss, torch.stack(agreement), 1 + accepted)


def trained_outputs(
    network: DraftNetwork,
    embedding: nn.Module,
    rows: TextRows,
    passes: int,
    theta: float,
    sees_clip: str = "nothing",
) -> tuple[list[Tensor], int]:
    """Each pass's outputs `[B, n, H]`, and the row they begin at: rows before the first response
    have no loss, and are only seen."""
    first = int(rows.response.any(dim=0).int().argmax())
    if network.shape.embedding_size:
        embedding = network.embedding
    embedded = embedding(rows.tokens) if rows.embeddings is None else rows.embeddings
    outputs = self_fed_outputs(
        network,
        embedded,
        rows.hidden,
        passes,
        theta,
        first_row=first,
        positions=rows.positions,
        **_of_clip(network, sees_clip, rows),
    )
    return outputs, first


def training_step(
    network: DraftNetwork,
    optimizer: torch.optim.Optimizer,
    embedding: nn.Module,
    lm_head: nn.Module,
    groups: Sequence[TextRows],
    *,
    passes: int,
    weights: LossWeights,
    theta: float,
    clip_norm: float = 1.0,
    sees_clip: str = "nothing",
) -> StepResult:
    """One optimizer step; gradients are clipped to `clip_norm`.

    Args:
        groups: the batch, in groups of sequences of like length, so that little is padding. A
            group counts by its response rows.
        sees_clip: what the draft sees of a clip, see `drafting.rows`.
    """
    counts = [float(rows.response.sum()) for rows in groups]
    results = []
    optimizer.zero_grad(set_to_none=True)
    for rows, count in zip(groups, counts, strict=True):
        result = draft_loss(
            network,
            embedding,
            lm_head,
            rows,
            passes=passes,
            weights=weights,
            theta=theta,
            sees_clip=sees_clip,
        )
        share = count / max(sum(counts), 1.0)
        (share * result.loss).backward()
        results.append(StepResult(*(share * value.detach() for value in result)))
    nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    return StepResult(*(torch.stack(values).sum(dim=0) for values in zip(*results, strict=True)))


def _of_clip(network: DraftNetwork, sees_clip: str, rows: TextRows) -> dict[str, Any]:
    """`clip` and `shift` of `self_fed_outputs`, one clip a sequence."""
    if rows.clip is None or rows.clip_positions is None or rows.runs_before is None:
        return {}
    made = [clip_rows(network, sees_clip, clip, [len(clip)]) for clip in rows.clip]
    standing = torch.stack([each.rows for each in made])
    clip = (standing, rows.clip_positions[:, made[0].places])
    if made[0].shifts is None:
        return {"clip": clip}
    shifts = torch.stack([each.shifts for each in made if each.shifts is not None])
    index = rows.runs_before[..., None].expand(-1, -1, shifts.shape[-1])
    return {"clip": clip, "shift": shifts.gather(1, index)}


def _after(rows: Tensor) -> Tensor:
    """`[B, R]` bool moved one row on: row i says whether row i - 1 was set."""
    return F.pad(rows, (1, -1))
