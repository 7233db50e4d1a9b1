"""Training rows are what decoding's prefill would keep: same tokens, same states, same order."""

from __future__ import annotations

from typing import Any

import torch
from decoding_cases import prefilled
from torch import Tensor
from training_cases import made

from sparrow_kernels.drafting.rows import TEXT_ALONE, RowRules
from sparrow_kernels.drafting.text_rows import TextRows
from sparrow_kernels.training.data.embedded_clips import batch_states, rows_of
from sparrow_kernels.training.small_target import END
from sparrow_kernels.training.target.language import ClipBatch


def rows_of_a_prefill(target: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Text tokens `[R]` and their states `[R, H]`, and the last slot's state behind them."""
    prefill = prefilled(target, inputs)
    rows = prefill.rows[0]
    return rows.tokens, torch.cat([rows.states, prefill.states])


def both_kinds() -> list[TextRows]:
    """Rows of the captions, and of the short answers."""
    return [rows_of(kind, TEXT_ALONE) for kind in batch_states(made().target, made().batch)]


def exchanges_of(batch: ClipBatch, clip: int) -> list[tuple[list[int], int]]:
    """Token ids of each exchange of a clip, and how many of them are the question."""
    found = []
    for segment in range(5):
        chosen = batch.segments[clip] == segment
        labels = batch.labels[clip, chosen].tolist()
        first_label = next(i for i, label in enumerate(labels) if label >= 0)
        found.append((batch.text_ids[clip, chosen].tolist(), first_label + 1))
    return found


@torch.no_grad()
def test_rows_are_those_of_a_prefill() -> None:
    target, batch, prepared = made()
    captions, answers = both_kinds()
    assert (len(captions.tokens), len(answers.tokens)) == (2, 8)
    for clip, inputs in enumerate(prepared):
        end = int((inputs["input_ids"][0] == int(batch.prefix_ids[-1])).nonzero()[-1]) + 1
        prefix = inputs["input_ids"][:, :end]
        assert prefix[0].tolist() == batch.prefix_ids.tolist()
        for number, (ids, question) in enumerate(exchanges_of(batch, clip)):
            rows, at = (captions, clip) if number == 0 else (answers, 4 * clip + number - 1)
            whole = torch.cat([prefix, torch.tensor([ids])], dim=1)
            changed = {
                "input_ids": whole,
                "attention_mask": torch.ones_like(whole),
                "mm_token_type_ids": (whole == target.config.video_token_id).int() * 2,
            }
            tokens, expected = rows_of_a_prefill(target, {**inputs, **changed})
            length = len(tokens)
            assert rows.tokens[at, :length].equal(tokens)
            torch.testing.assert_close(
                rows.hidden[at, :length], expected[:length], rtol=1e-3, atol=1e-4
            )
            # A row's own state is the next row's previous one, where both are text.
            own = slice(length - len(ids), length)
            torch.testing.assert_close(
                rows.state[at, own], expected[own.start + 1 :], rtol=1e-3, atol=1e-4
            )
            # Trees are rooted at emitted tokens whose successor may be drafted.
            emitted = range(length - len(ids) + question, length)
            roots = [row for row in emitted if row + 1 < length and ids[row + 1 - length] != END]
            assert rows.response[at].nonzero().flatten().tolist() == roots


@torch.no_grad()
def test_padding_is_never_response() -> None:
    for rows in both_kinds():
        assert not bool(rows.response[:, -1].any())
        assert bool(rows.response.any(dim=1).all())


def test_the_position_behind_a_prompt_is_its_last_column_s_plus_one() -> None:
    """As `generate` has it, also where a clip's temporal ids have passed those of its text."""
    rules = RowRules(positions="mrope")
    axes = torch.tensor([[0, 1, 40, 3, 4], [0, 1, 1, 3, 4], [0, 1, 2, 3, 4]])
    plan = rules.plan(torch.tensor([False, False, True, False, False]))
    states = torch.zeros(len(plan.rows), 2)
    rows = rules.rows(plan, torch.arange(5), axes, states, torch.zeros(5, 2))
    assert rows.positions.tolist() == [1, 3, 4] and rows.next_position == 5
