"""A training step: which rows count in which pass, what is measured, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparrow_kernels.drafting import training_step as step_module
from sparrow_kernels.drafting.losses import LOSSES, LossWeights, row_losses
from sparrow_kernels.drafting.network import DraftNetwork, LayerShape
from sparrow_kernels.drafting.self_feeding import self_fed_outputs
from sparrow_kernels.drafting.text_rows import TextRows
from sparrow_kernels.drafting.training_step import draft_loss, training_step

THETA, VOCAB, HIDDEN = 1e4, 23, 16
SOFT = LossWeights(soft_cross_entropy=1.0, smooth_l1=0.1, pass_decay=0.9)


def make_parts() -> tuple[DraftNetwork, nn.Embedding, nn.Linear]:
    torch.manual_seed(3)
    network = DraftNetwork(LayerShape(HIDDEN, 24, heads=2, kv_heads=1, head_dim=8))
    embedding, lm_head = nn.Embedding(VOCAB, HIDDEN), nn.Linear(HIDDEN, VOCAB, bias=False)
    return network, embedding.requires_grad_(False), lm_head.requires_grad_(False)


def make_rows(batch: int = 2, length: int = 11) -> TextRows:
    """Random states; responses of 6 and 4 rows, the second sequence padded."""
    tokens = torch.randint(VOCAB, (batch, length))
    hidden, state = torch.randn(2, batch, length, HIDDEN)
    response = torch.zeros(batch, length, dtype=torch.bool)
    response[0, 4:10] = True
    response[1, 3:7] = True
    return TextRows(tokens, hidden, state, response)


def test_a_pass_counts_rows_whose_whole_chain_is_response() -> None:
    """The loss of a step is the sum over passes, each over the rows that decoding could reach."""
    network, embedding, lm_head = make_parts()
    rows = make_rows()
    result = draft_loss(network, embedding, lm_head, rows, passes=4, weights=SOFT, theta=THETA)
    outputs = self_fed_outputs(network, embedding(rows.tokens), rows.hidden, 4, THETA)
    probs = lm_head(rows.state).softmax(dim=-1)
    expected = 0.0
    for number, output in enumerate(outputs):
        counted = torch.zeros_like(rows.response)
        for batch in range(2):
            for row in range(11):
                chain = range(row - number, row + 1)
                counted[batch, row] = all(r >= 0 and bool(rows.response[batch, r]) for r in chain)
        every = row_losses(SOFT, output, lm_head(output), rows.state, probs)
        expected += 0.9**number * every[counted].mean().item()
    assert result.loss.item() == pytest.approx(expected, rel=1e-5)


def test_mean_emitted_is_that_of_chains_from_every_root() -> None:
    """With a half-trained draft, right at some rows, the estimate is what walking chains gives."""
    network, embedding, lm_head = make_parts()
    rows = make_rows()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(20):
        training_step(
            network, optimizer, embedding, lm_head, [rows], passes=3, weights=SOFT, theta=THETA
        )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    result = training_step(
        network, optimizer, embedding, lm_head, [rows], passes=3, weights=SOFT, theta=THETA
    )
    outputs = self_fed_outputs(network, embedding(rows.tokens), rows.hidden, 3, THETA)
    best = lm_head(rows.state).argmax(dim=-1)
    right = [lm_head(output).argmax(dim=-1) == best for output in outputs]
    expected, agreement = 1.0, []
    for depth in range(3):
        reached, accepted, agreed = 0, 0, 0
        for batch, root in rows.response.nonzero().tolist():
            chain = [(level, root + level) for level in range(depth + 1)]
            if not all(bool(rows.response[batch, row]) for _, row in chain):
                continue
            reached += 1
            agreed += bool(right[depth][batch, root + depth])
            accepted += all(bool(right[level][batch, row]) for level, row in chain)
        expected += accepted / reached
        agreement.append(agreed / reached)
    assert 1.3 < expected < 3.7, "some chains must be right and some wrong"
    assert result.mean_emitted.item() == pytest.approx(expected, rel=1e-6)
    assert result.agreement.tolist() == pytest.approx(agreement)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [SOFT, LOSSES["vispec"]], ids=["soft", "vispec"])
def test_steps_learn_a_small_batch_by_heart(weights: LossWeights) -> None:
    network, embedding, lm_head = make_parts()
    frozen = [weight.clone() for weight in (embedding.weight, lm_head.weight)]
    rows = make_rows()
    rows = rows._replace(state=rows.state * 3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    first = None
    for _ in range(120):
        result = training_step(
            network, optimizer, embedding, lm_head, [rows], passes=3, weights=weights, theta=THETA
        )
        first = result if first is None else first
    assert result.loss < 0.7 * first.loss  # the entropy of the target stays
    assert result.mean_emitted > 3.5 > first.mean_emitted
    for weight, before in zip((embedding.weight, lm_head.weight), frozen, strict=True):
        assert torch.equal(weight, before)


def test_gradients_are_clipped() -> None:
    network, embedding, lm_head = make_parts()
    before = [parameter.clone() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    training_step(
        network,
        optimizer,
        embedding,
        lm_head,
        [make_rows()],
        passes=2,
        weights=LossWeights(soft_cross_entropy=1e4),
        theta=THETA,
        clip_norm=0.01,
    )
    moved = [(a - b).square().sum() for a, b in zip(network.parameters(), before, strict=True)]
    assert torch.stack(moved).sum().sqrt().item() == pytest.approx(0.01, rel=1e-3)


def test_groups_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient, loss and shares are those of one batch, however it is worked through."""
    network, embedding, lm_head = make_parts()
    rows = make_rows(batch=3)
    rows.response[2] = rows.response[0].roll(-2)
    whole = [rows]
    found = []
    for groups, logits_at_once in (
        (whole, 2**25),
        ([rows.of([2]), rows.of([0, 1])], 2**25),
        (whole, VOCAB * 4 * 3),  # three rows of three passes and the target's
    ):
        monkeypatch.setattr(step_module, "_LOGITS_AT_ONCE", logits_at_once)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        result = training_step(
            network,
            optimizer,
            embedding,
            lm_head,
            groups,
            passes=3,
            weights=SOFT,
            theta=THETA,
            clip_norm=1e9,
        )
        gradients = [parameter.grad.clone() for parameter in network.parameters()]
        found.append((*result, *gradients))
    assert found[0][1].shape == (3,)
    for other in found[1:]:
        for expected, value in zip(found[0], other, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_a_step_without_a_row_changes_nothing() -> None:
    network, embedding, lm_head = make_parts()
    before = [parameter.clone() for parameter in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.0)
    result = training_step(
        network, optimizer, embedding, lm_head, [], passes=2, weights=SOFT, theta=THETA
    )
    assert result.loss == 0 and result.mean_emitted == 1
    for parameter, old in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
