"""Each loss against the same written in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparrow_kernels.drafting import losses
from sparrow_kernels.drafting.losses import LossWeights

BATCH, ROWS, VOCAB, HIDDEN = 2, 3, 13, 5


def rows_of(seed: int) -> tuple[Tensor, Tensor]:
    """Draft logits and target distributions `[B, R, V]` float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, BATCH, ROWS, VOCAB, generator=generator, dtype=torch.float64) * 3
    return logits[0], logits[1].softmax(dim=-1)


def softmax(scores: list[float]) -> list[float]:
    masses = [math.exp(score) for score in scores]
    return [mass / sum(masses) for mass in masses]


def cross_entropy_by_hand(draft: list[float], target: list[float]) -> float:
    return -sum(t * math.log(d) for t, d in zip(target, softmax(draft), strict=True))


def l1_by_hand(draft: list[float], target: list[float]) -> float:
    return sum(abs(d - t) for t, d in zip(target, softmax(draft), strict=True))


def list_mle_by_hand(draft: list[float], target: list[float], length: int = 10) -> float:
    order = sorted(range(len(target)), key=lambda token: -target[token])[:length]
    loss = 0.0
    while order:
        loss -= math.log(math.exp(draft[order[0]]) / sum(math.exp(draft[t]) for t in order))
        order.pop(0)
    return loss


@pytest.mark.parametrize(
    ("loss", "by_hand"),
    [
        (losses.soft_cross_entropy, cross_entropy_by_hand),
        (losses.distribution_l1, l1_by_hand),
        (lambda draft, target: losses.list_mle(draft, target, 10), list_mle_by_hand),
    ],
    ids=["soft cross entropy", "distribution l1", "list mle"],
)
def test_loss_of_distributions(loss, by_hand) -> None:
    draft, target = rows_of(1)
    result = loss(draft, target)
    assert result.shape == (BATCH, ROWS)
    for batch in range(BATCH):
        for row in range(ROWS):
            expected = by_hand(draft[batch, row].tolist(), target[batch, row].tolist())
            assert result[batch, row].item() == pytest.approx(expected, rel=1e-10)


def test_list_mle_of_a_vocabulary_shorter_than_the_list() -> None:
    draft, target = rows_of(2)
    expected = list_mle_by_hand(draft[0, 0].tolist(), target[0, 0].tolist(), 99)
    assert losses.list_mle(draft, target, 99)[0, 0].item() == pytest.approx(expected, rel=1e-10)


def test_state_distance_is_smooth_l1() -> None:
    output = torch.tensor([[0.0, 0.5, -3.0]])
    state = torch.tensor([[0.2, 0.5, 1.0]])
    expected = (0.5 * 0.2**2 + 0.0 + (4.0 - 0.5)) / 3
    assert losses.state_distance(output, state).item() == pytest.approx(expected, rel=1e-6)


def test_top_cross_entropy_counts_the_best_ids_alone() -> None:
    draft, target = rows_of(6)
    found = losses.top_cross_entropy(draft, target, 4)
    for batch in range(BATCH):
        for row in range(ROWS):
            probs, said = target[batch, row].tolist(), softmax(draft[batch, row].tolist())
            best = sorted(range(VOCAB), key=lambda token: -probs[token])[:4]
            expected = -sum(probs[token] * math.log(said[token]) for token in best)
            assert found[batch, row].item() == pytest.approx(expected, rel=1e-10)


def test_rows_whose_token_the_draft_does_not_know_do_not_count() -> None:
    draft, target = rows_of(8)
    draft[0] = target[0].log() + draft[0] * 0.1
    output, state = torch.randn(2, BATCH, ROWS, HIDDEN, dtype=torch.float64)
    for batch in range(BATCH):
        for row in range(ROWS):
            best = max(range(VOCAB), key=lambda token: target[batch, row, token])
            order = sorted(range(VOCAB), key=lambda token: -draft[batch, row, token])
            for within in range(1, VOCAB):
                known = losses.is_known(draft, target, within)
                assert bool(known[batch, row]) == (best in order[:within])
    known = losses.is_known(draft, target, 3)
    assert bool(known.any()) and not bool(known.all())
    every = losses.row_losses(LossWeights(1.0, 1.0), output, draft, state, target)
    some = losses.row_losses(LossWeights(1.0, 1.0, known_within=3), output, draft, state, target)
    assert torch.equal(some, torch.where(known, every, 0.0))


def test_weights_scale_their_own_loss() -> None:
    draft, target = rows_of(4)
    output, state = torch.randn(2, BATCH, ROWS, HIDDEN, dtype=torch.float64)
    parts = {
        "soft_cross_entropy": losses.soft_cross_entropy(draft, target),
        "distribution_l1": losses.distribution_l1(draft, target),
        "list_mle": losses.list_mle(draft, target, 4),
        "smooth_l1": losses.state_distance(output, state),
        "top_cross_entropy": losses.top_cross_entropy(draft, target, 4),
    }
    expected = sum(weight * part for weight, part in enumerate(parts.values(), start=2))
    weights = LossWeights(2.0, 3.0, 4.0, 5.0, 6.0, list_length=4)
    total = losses.row_losses(weights, output, draft, state, target)
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=0)


def test_a_perfect_draft_loses_nothing() -> None:
    draft, _ = rows_of(5)
    target = draft.softmax(dim=-1)
    assert losses.distribution_l1(draft, target).abs().max() < 1e-12
    entropy = -(target * target.log()).sum(dim=-1)
    torch.testing.assert_close(losses.soft_cross_entropy(draft, target), entropy)


def test_recipes_are_the_published_ones() -> None:
    """Written here from the papers that `LOSSES` names, not from its numbers."""
    draft, target = rows_of(6)
    draft[0] = target[0].log() + draft[0] * 0.1  # some rows know the target's token, some do not
    output, state = torch.randn(2, BATCH, ROWS, HIDDEN, dtype=torch.float64)
    soft = losses.soft_cross_entropy(draft, target)
    states = losses.state_distance(output, state)
    top = losses.top_cross_entropy(draft, target, 10)
    ranked = losses.list_mle(draft, target, 10)
    known = losses.is_known(draft, target, 5)
    assert bool(known.any()) and not bool(known.all())
    published = {
        "soft": soft + states / 10,
        "eagle": states + soft / 10,
        "vispec": 10 * losses.distribution_l1(draft, target) + ranked / 10,
        "hivis": (states + soft / 10 + top) * known,
    }
    assert set(published) == set(losses.LOSSES)
    for name, expected in published.items():
        found = losses.row_losses(losses.LOSSES[name], output, draft, state, target)
        assert torch.allclose(found, expected, rtol=1e-12), name
