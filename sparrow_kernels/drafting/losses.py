"""Losses between what a draft row says and what the target says at the same row.

Each loss of a row is a number `[B, R]`; `row_mean` averages it over the rows that count. The
weighted sums that papers use are `LossWeights`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts. A loss of weight 0 is not computed.

    Args:
        soft_cross_entropy: against the target's distribution.
        distribution_l1: sum of absolute differences of the two distributions.
        list_mle: the order of the target's `list_length` best ids.
        smooth_l1: of the states themselves.
        list_length: k of ListMLE@k.
        pass_decay: pass j counts `pass_decay ** (j - 1)`.
    """

    soft_cross_entropy: float = 0.0
    distribution_l1: float = 0.0
    list_mle: float = 0.0
    smooth_l1: float = 0.0
    list_length: int = 10
    pass_decay: float = 1.0


FIRST_STAGE = LossWeights(smooth_l1=1.0, soft_cross_entropy=0.1)
"""On text, from a fresh draft (EAGLE, arXiv 2401.15077)."""

SECOND_STAGE = LossWeights(distribution_l1=10.0, list_mle=0.1)
"""With clips or images (ViSpec, arXiv 2509.15235, which Sparrow follows)."""


def row_mean(losses: Tensor, counted: Tensor) -> Tensor:
    """Mean of `[B, R]` losses over the rows where `counted` `[B, R]` is set; 0 if none is."""
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp_min(1)


def soft_cross_entropy(draft_logits: Tensor, target_probs: Tensor) -> Tensor:
    """`[..., V]` twice -> `[...]`: expected negative log-probability under the target."""
    return -(target_probs * draft_logits.log_softmax(dim=-1)).sum(dim=-1)


def distribution_l1(draft_logits: Tensor, target_probs: Tensor) -> Tensor:
    """`[..., V]` twice -> `[...]`: twice the total variation distance, 0 … 2.

    One minus half of it is the chance that rejection sampling accepts a single draft token.
    """
    return (draft_logits.softmax(dim=-1) - target_probs).abs().sum(dim=-1)


def list_mle(draft_logits: Tensor, target_probs: Tensor, length: int) -> Tensor:
    """`[..., V]` twice -> `[...]`: the target's best `length` ids, ranked by the draft.

    Negative log-likelihood of that order when ids are drawn one after the other in proportion to
    the draft's probabilities, from these ids alone (ListMLE: Xia et al., ICML 2008).
    """
    order = target_probs.topk(min(length, target_probs.shape[-1]), dim=-1).indices
    scores = draft_logits.gather(-1, order)
    remaining = scores.flip(-1).logcumsumexp(dim=-1).flip(-1)
    return (remaining - scores).sum(dim=-1)


def state_distance(output: Tensor, state: Tensor) -> Tensor:
    """`[..., H]` twice -> `[...]`: smooth L1 of a draft output and a target state, mean of H."""
    return F.smooth_l1_loss(output, state, reduction="none").mean(dim=-1)


def weighted_loss(
    weights: LossWeights,
    output: Tensor,
    draft_logits: Tensor,
    state: Tensor,
    target_probs: Tensor,
    counted: Tensor,
) -> Tensor:
    """The weighted sum of one pass, a scalar.

    Args:
        weights: which losses, and how much of each.
        output: `[B, R, H]` draft outputs.
        draft_logits: `[B, R, V]` the LM head over them.
        state: `[B, R, H]` the target's states at the same rows.
        target_probs: `[B, R, V]` the target's distributions there.
        counted: `[B, R]` bool, rows that count.
    """
    total = output.new_zeros(())
    if weights.soft_cross_entropy:
        rows = soft_cross_entropy(draft_logits, target_probs)
        total = total + weights.soft_cross_entropy * row_mean(rows, counted)
    if weights.distribution_l1:
        rows = distribution_l1(draft_logits, target_probs)
        total = total + weights.distribution_l1 * row_mean(rows, counted)
    if weights.list_mle:
        rows = list_mle(draft_logits, target_probs, weights.list_length)
        total = total + weights.list_mle * row_mean(rows, counted)
    if weights.smooth_l1:
        total = total + weights.smooth_l1 * row_mean(state_distance(output, state), counted)
    return total
