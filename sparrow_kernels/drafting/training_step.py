"""One training step of a draft, from what a frozen target left at its text rows. Torch only.

A pass's loss is the mean over the rows that its chains reach, in the whole batch: in how many
groups, and in how many processes, it is worked through changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from sparrow_kernels.drafting.clip_rows import clip_rows
from sparrow_kernels.drafting.losses import LossWeights, row_losses
from sparrow_kernels.drafting.network import DraftNetwork
from sparrow_kernels.drafting.self_feeding import ClipKeys, self_fed_outputs
from sparrow_kernels.drafting.text_rows import TextRows, reached

_LOGITS_AT_ONCE = 2**27
"""Numbers in the logits of all passes of a chunk of rows: 512 MiB of float32."""


class StepResult(NamedTuple):
    """A step's loss, and how well the draft did in it."""

    loss: Tensor
    """Scalar."""
    agreement: Tensor
    """`[passes]` share of counted rows whose best id is the target's best, of those that the draft
    can say."""
    mean_emitted: Tensor
    """Scalar: tokens a target call would emit with a chain of `passes` drafted tokens, averaged
    over all roots. An estimate of decoding's own: that visits only some roots, and stops at
    stop ids."""


class LossSums(NamedTuple):
    """What groups and processes add up."""

    loss: Tensor
    """Scalar, with autograd: this part's share of the batch's loss."""
    agreed: Tensor
    """`[passes]` rows whose best id is the target's best."""
    accepted: Tensor
    """`[passes]` rows of which that is true all the way from the root."""


def pass_counts(groups: Sequence[TextRows], passes: int) -> Tensor:
    """`[passes]` float64: the rows that count in each pass."""
    counts = torch.zeros(passes, dtype=torch.float64)
    for rows in groups:
        counts += reached(rows.response, passes).sum(dim=(1, 2)).cpu()
    return counts


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
    counts: Tensor | None = None,
) -> LossSums:
    """Forward and loss over a batch. `embedding` and `lm_head` are the target's, and frozen.

    A draft with an LM head of its own is held against the target's distribution over the ids that
    this head can say. Logits are made for some rows at a time, and again in the backward.

    Args:
        counts: `[passes]` the rows that count in the whole batch, of which `rows` may be a part.
    """
    outputs, first = trained_outputs(network, embedding, rows, passes, theta, sees_clip)
    counts = pass_counts([rows], passes) if counts is None else counts
    response = rows.response[:, first:]
    grid = reached(response, passes)
    is_reached = grid[:, response]
    places = response.nonzero(as_tuple=True)
    decay = weights.pass_decay ** torch.arange(passes, dtype=torch.float64)
    shares = (decay / counts.clamp_min(1)).to(response.device, torch.float32)
    chosen = torch.stack([output[places] for output in outputs])
    state = rows.state[:, first:][places]
    size = _rows_at_once(network, lm_head, passes)
    loss, agreed = torch.zeros((), device=response.device), []
    for start in range(0, len(state), size):
        part = slice(start, start + size)
        arguments = (network, lm_head, weights, chosen[:, part], state[part], is_reached[:, part])
        if len(state) > size:
            chunk, right = checkpoint(_chunk_losses, *arguments, use_reentrant=False)
        else:
            chunk, right = _chunk_losses(*arguments)
        loss = loss + (shares * chunk).sum()
        agreed.append(right)
    agrees = torch.zeros_like(grid)
    if agreed:
        agrees[:, response] = torch.cat(agreed, dim=1)
    accepted = [agrees[0]]
    for each in agrees[1:]:
        accepted.append(F.pad(accepted[-1], (1, -1)) & each)
    sums = [each.sum(dim=(1, 2)).double().cpu() for each in (agrees, torch.stack(accepted))]
    return LossSums(loss, *sums)


def _chunk_losses(
    network: DraftNetwork,
    lm_head: nn.Module,
    weights: LossWeights,
    outputs: Tensor,
    state: Tensor,
    is_reached: Tensor,
) -> tuple[Tensor, Tensor]:
    """`[passes, n, H]` and `[n, H]` -> summed losses `[passes]`, and who agrees `[passes, n]`."""
    with torch.no_grad():
        said = network.draft_ids if network.shape.head_size else None
        target_probs = _logits(lm_head, state, said).softmax(dim=-1)
        target_best = target_probs.argmax(dim=-1)
    losses, agrees = [], []
    head = network.head if network.shape.head_size else lm_head
    for output, counted in zip(outputs, is_reached, strict=True):
        logits = _logits(head, network.headed(output))
        each = row_losses(weights, output, logits, state.to(output.dtype), target_probs)
        losses.append(torch.where(counted, each, 0.0).sum())
        agrees.append((logits.detach().argmax(dim=-1) == target_best) & counted)
    return torch.stack(losses), torch.stack(agrees)


def _logits(head: nn.Module, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
    """`[..., V]` in float32 at least, of `ids` alone where they are given."""
    weight: Tensor = head.weight  # type: ignore[assignment]
    hidden = hidden.to(weight.dtype)
    # A frozen head runs in its own dtype: autocast would copy it, for each product again.
    enabled = weight.requires_grad and torch.is_autocast_enabled(hidden.device.type)
    with torch.autocast(hidden.device.type, enabled=enabled):
        if ids is None:
            logits: Tensor = head(hidden)
        else:
            bias: Tensor | None = getattr(head, "bias", None)
            logits = F.linear(hidden, weight[ids], None if bias is None else bias[ids])
    return logits.float() if logits.itemsize == 2 else logits


def _rows_at_once(network: DraftNetwork, lm_head: nn.Module, passes: int) -> int:
    weight: Tensor = lm_head.weight  # type: ignore[assignment]
    said = network.shape.head_size or weight.shape[0]
    return max(1, _LOGITS_AT_ONCE // (said * (1 + passes)))


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
    like = network.fc.weight
    outputs = self_fed_outputs(
        network,
        embedded.to(like),
        rows.hidden.to(like),
        passes,
        theta,
        first_row=first,
        positions=rows.positions,
        **_of_clip(network, sees_clip, rows, like),
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
    autocast: torch.dtype | None = None,
    add_up: Callable[[Tensor], None] | None = None,
) -> StepResult:
    """One optimizer step; gradients are clipped to `clip_norm`.

    Args:
        groups: the batch, in groups of sequences of like length, so that little is padding. They
            are worked through one after the other.
        sees_clip: what the draft sees of a clip, see `drafting.rows`.
        autocast: what its products run in; the weights stay what they are.
        add_up: replaces a tensor by its sum over all processes, each with other groups.
    """
    add_up = add_up or (lambda _: None)
    counts = pass_counts(groups, passes)
    add_up(counts)
    totals = torch.zeros(1 + 2 * passes, dtype=torch.float64)
    optimizer.zero_grad(set_to_none=True)
    device = network.fc.weight.device.type
    for rows in groups:
        with torch.autocast(device, autocast, enabled=autocast is not None):
            part = draft_loss(
                network,
                embedding,
                lm_head,
                rows.trimmed(),
                passes=passes,
                weights=weights,
                theta=theta,
                sees_clip=sees_clip,
                counts=counts,
            )
        part.loss.backward()
        totals += torch.cat([part.loss.detach().double().cpu()[None], part.agreed, part.accepted])
    for parameter in network.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            add_up(parameter.grad)
    add_up(totals)
    if counts[0]:
        nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        optimizer.step()
    shares = totals[1:].view(2, passes) / counts.clamp_min(1)
    return StepResult(totals[0], shares[0], 1 + shares[1].sum())


def _of_clip(network: DraftNetwork, sees_clip: str, rows: TextRows, like: Tensor) -> dict[str, Any]:
    """`clip` and `shift` of `self_fed_outputs`."""
    if rows.clip is None or rows.clip_positions is None:
        return {}
    standing, positions, shifts = [], [], []
    for clip, where, runs in zip(rows.clip, rows.clip_positions, rows.clip_runs, strict=True):
        made = clip_rows(network, sees_clip, clip[: sum(runs)].to(like), runs)
        standing.append(made.rows)
        positions.append(where[made.places])
        if made.shifts is not None:
            shifts.append(made.shifts)
    clip = ClipKeys(
        pad_sequence(standing, batch_first=True),
        pad_sequence(positions, batch_first=True),
        [len(each) for each in standing],
    )
    if not shifts or rows.runs_before is None:
        return {"clip": clip}
    padded = pad_sequence(shifts, batch_first=True)
    index = rows.runs_before[..., None].expand(-1, -1, padded.shape[-1])
    return {"clip": clip, "shift": padded.gather(1, index)}
