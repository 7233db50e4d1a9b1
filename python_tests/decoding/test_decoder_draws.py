"""What a drawn tree is drawn from: a draft's distribution, made so that any child can be drawn."""

from __future__ import annotations

import pytest
import torch

from sparrow_kernels.decoding.growth import _with_full_support

NONE = float("-inf")


def test_an_id_that_rounding_left_without_mass_can_be_drawn() -> None:
    probs = _with_full_support(torch.tensor([[0.0, -500.0, NONE]]))[0].tolist()
    assert probs[1] == pytest.approx(0.5e-6, rel=1e-3), "a millionth of the uniform one, no more"
    assert probs[0] == pytest.approx(1 - 0.5e-6, rel=1e-6)
    assert probs[2] == 0, "what may not be drafted has none of it"


def test_a_draft_whose_numbers_are_none_drafts_anything_it_may() -> None:
    rows = torch.tensor([[float("nan"), 1.0, NONE, 2.0], [0.0, NONE, NONE, NONE]])
    probs = _with_full_support(rows)
    assert probs[0].tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    assert probs[1].tolist() == [1, 0, 0, 0]
