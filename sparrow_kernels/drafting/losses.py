"""Losses between what a draft row says and what the target says at the same row.

Each loss of a row is a number. The weighted sums that papers use are `LossWeights`.
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
        top_cross_entropy: against the target's distribution, of its `list_length` best ids alone.
        list_length: k of ListMLE@k, and of the term above.
        known_within: rows count whose token the target likes best is among so many of the draft's
            best; 0 for all rows.
        pass_decay: pass j counts `pass_decay ** (j - 1)`.
    """

    soft_cross_entropy: float = 0.0
    distribution_l1: float = 0.0
    list_mle: float = 0.0
    smooth_l1: float = 0.0
    top_cross_entropy: float = 0.0
    list_length: int = 10
    known_within: int = 0
    pass_decay: float = 1.0


LOSSES = {
    # Cross-entropy as EAGLE-3 has it (arXiv 2503.01840), with a hold on the states that are fed on.
    "soft": LossWeights(soft_cross_entropy=1.0, smooth_l1=0.1, pass_decay=0.9),
    # EAGLE (arXiv 2401.15077): on text, from a fresh draft.
    "eagle": LossWeights(smooth_l1=1.0, soft_cross_entropy=0.1),
    # ViSpec (arXiv 2509.15235), which Sparrow follows: with clips or images, after the first stage.
    "vispec": LossWeights(distribution_l1=10.0, list_mle=0.1),
    # HiViS (arXiv 2509.23928): its self-fed stage.
    "hivis": LossWeights(
        smooth_l1=1.0, soft_cross_entropy=0.1, top_cross_entropy=1.0, known_within=5
    ),
}
"""The weights of published recipes, by name."""


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


def top_cross_entropy(draft_logits: Tensor, target_probs: Tensor, length: int) -> Tensor:
    """`[..., V]` twice -> `[...]`: the terms of the cross-entropy of the target's best ids.

    The rest of the target's distribution, which no tree of top tokens will hold, does not count
    (HASS, arXiv 2408.15766, and HiViS after it).
    """
    probs, ids = target_probs.topk(min(length, target_probs.shape[-1]), dim=-1)
    return -(probs * draft_logits.log_softmax(dim=-1).gather(-1, ids)).sum(dim=-1)


def is_known(draft_logits: Tensor, target_probs: Tensor, within: int) -> Tensor:
    """`[..., V]` twice -> `[...]` bool: the target's best id is among so many of the draft's."""
    best = target_probs.argmax(dim=-1, keepdim=True)
    better = draft_logits > draft_logits.gather(-1, best)
    return better.sum(dim=-1) < within


def state_distance(output: Tensor, state: Tensor) -> Tensor:
    """`[..., H]` twice -> `[...]`: smooth L1 of a draft output and a target state, mean of H."""
    return F.smooth_l1_loss(output, state, reduction="none").mean(dim=-1)


def row_losses(
    weights: LossWeights,
    output: Tensor,
    draft_logits: Tensor,
    state: Tensor,
    target_probs: Tensor,
) -> Tensor:
    """The weighted sum of each row, `[...]`.

    Args:
        weights: which losses, and how much of each.
        output: `[..., H]` draft outputs.
        draft_logits: `[..., V]` the LM head over them.
        state: `[..., H]` the target's states at the same rows.
        target_probs: `[..., V]` the target's distributions there.
    """
    length = weights.list_length
    total = draft_logits.new_zeros(draft_logits.shape[:-1])
    if weights.soft_cross_entropy:
        total = total + weights.soft_cross_entropy * soft_cross_entropy(draft_logits, target_probs)
    if weights.distribution_l1:
        total = total + weights.distribution_l1 * distribution_l1(draft_logits, target_probs)
    if weights.list_mle:
        total = total + weights.list_mle * list_mle(draft_logits, target_probs, length)
    if weights.top_cross_entropy:
        terms = top_cross_entropy(draft_logits, target_probs, length)
        total = total + weights.top_cross_entropy * terms
    if weights.smooth_l1:
        total = total + weights.smooth_l1 * state_distance(output, state)
    if weights.known_within:
        known = is_known(draft_logits, target_probs, weights.known_within)
        total = torch.where(known, total, 0.0)
    return total
