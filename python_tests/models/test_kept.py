"""What a second prompt takes over of a cache, slot by slot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparrow_kernels.drafting.rows import RowRules
from sparrow_kernels.models.kept import KeptPrompt, marks_of

SLOTS, CLIP = 40, slice(4, 24)
VISUAL = torch.zeros(SLOTS, dtype=torch.bool)
VISUAL[CLIP] = True
BLIND, SEEING = RowRules(), RowRules(sees_clip="embeddings")


def prompt(positions: Tensor, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(1, SLOTS, 8, generator=generator).to(dtype)
    return SimpleNamespace(
        embeddings=embeddings, positions=positions, ids=torch.zeros(SLOTS, dtype=torch.int64)
    )


def kept(rules: RowRules) -> KeptPrompt:
    plan = rules.plan(VISUAL)
    marks = marks_of(prompt(torch.arange(SLOTS)))
    clip = plan.clip[:, None].float() if rules.has_clip_rows else None
    return KeptPrompt(marks, plan, plan.before[:, None].float(), clip, rules)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("axes", [1, 3])
def test_a_mark_tells_positions_apart(axes: int, dtype: torch.dtype) -> None:
    """The same frames at another rate have the same embeddings."""
    positions = torch.arange(SLOTS).repeat(axes, 1)
    marks = marks_of(prompt(positions, dtype))
    assert torch.equal(marks_of(prompt(positions.clone(), dtype)), marks)
    for axis in range(axes):
        later = positions.clone()
        later[axis, 30] += 1
        changed = marks_of(prompt(later, dtype)) != marks
        assert changed.nonzero().tolist() == [[30]]


def test_the_same_prompt_runs_its_last_slot_again() -> None:
    """Whose state the token behind it wants."""
    before = kept(BLIND)
    assert before.shared_with(before.marks.clone(), before.plan, BLIND) == SLOTS - 1
    shorter = BLIND.plan(VISUAL[:35])
    assert before.shared_with(before.marks[:35], shorter, BLIND) == 34


def test_as_much_is_shared_as_is_the_same_and_worth_it() -> None:
    before = kept(BLIND)
    for first, shared in ((30, 29), (17, 16), (16, 0), (0, 0)):
        marks = before.marks.clone()
        marks[first] += 1
        assert before.shared_with(marks, before.plan, BLIND) == shared


def test_states_of_other_layers_or_of_rows_that_nobody_kept_run_again() -> None:
    before = kept(BLIND)
    for other in (RowRules(layer_ids=(1, 2)), RowRules(sees_clip="middle", middle_layer=2)):
        assert before.shared_with(before.marks, other.plan(VISUAL), other) == 0
    text = VISUAL.clone()
    text[20] = False  # a row of what was a clip's slot: it reads slot 19
    assert before.shared_with(before.marks, BLIND.plan(text), BLIND) == 19


def test_of_what_was_kept_only_what_lies_before_is_taken() -> None:
    before = kept(SEEING)
    states, clip = before.before(10, before.plan)
    assert states[:, 0].tolist() == [0, 1, 2]
    assert clip is not None and clip[:, 0].tolist() == [4, 5, 6, 7, 8, 9]
    assert kept(BLIND).before(30, BLIND.plan(VISUAL))[1] is None
