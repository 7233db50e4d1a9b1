"""From what a target leaves at a sequence to the rows that a draft is trained on.

`RowRules` decide, the same that make the rows of a prompt while decoding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.drafting.rows import RowRules
from sparrow_kernels.drafting.text_rows import TextRows
from sparrow_kernels.models.sequence import SequenceStates


def text_rows(states: SequenceStates, response: Tensor, rules: RowRules) -> TextRows:
    """The rows of one sequence, as a batch of one.

    Args:
        response: `[n]` bool, slots that a tree may be rooted at; see `TextRows`. No clip lies
            behind the first.
        rules: how the draft reads.

    Raises:
        ValueError: rules with positions of three axes, which only drafts of others have.
    """
    plan = rules.plan(states.visual)
    clip_layer = rules.clip_layer
    rows = rules.rows(
        plan,
        states.ids,
        states.positions,
        states.read(rules.layer_ids)[plan.before],
        states.embeddings,
        None if clip_layer is None else states.inner[clip_layer][plan.clip],
    )
    if rows.positions.dim() > 1:
        raise ValueError("positions must be compact or sequence to train a draft, got mrope")
    clip, clip_positions, runs_before = rows.clip, rows.clip_positions, rows.runs_before
    if clip is None and rules.has_clip_rows:  # a text, among dialogues with clips
        clip, clip_positions = states.embeddings[:0], plan.clip
        runs_before = torch.zeros_like(plan.rows)
    parts: list[Any] = [
        rows.tokens,
        rows.states,
        states.top[plan.rows],
        response[plan.rows],
        rows.positions,
        rows.embeddings,
        clip,
        clip_positions,
        runs_before,
    ]
    parts = [None if part is None else part[None] for part in parts]
    parts.append((rows.clip_runs,) if rules.has_clip_rows else ())
    return TextRows(*parts)


def response_slots(ids: Tensor, emitted: Tensor, stops: Tensor) -> Tensor:
    """`[n]` bool: the slots that a tree may be rooted at.

    Their token was emitted, and the one after them may be drafted: stop ids never are.

    Args:
        ids: `[n]` int64.
        emitted: `[n]` bool, what the target has emitted.
        stops: `[K]` int64 the stop ids.
    """
    drafted = emitted & ~torch.isin(ids, stops)
    response = torch.zeros_like(emitted)
    response[:-1] = emitted[:-1] & drafted[1:]
    return response


def wanted_layers(rules: RowRules) -> set[int]:
    """The inner states that `rules` read."""
    wanted = set(rules.layer_ids or ())
    if rules.clip_layer is not None:
        wanted.add(rules.clip_layer)
    return wanted
