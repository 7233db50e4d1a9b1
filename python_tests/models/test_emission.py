"""The host's side of a call: what a caller's own criteria are asked, and how often."""

from __future__ import annotations

from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from sparrow_kernels.models.emission import Sequence, Stops


class Counting(StoppingCriteria):
    """Counts its calls, as a criterion may, and stops at the third."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.lengths.append(input_ids.shape[1])
        return torch.full((1,), len(self.lengths) >= 3)


def test_a_criterion_is_asked_once_about_a_length() -> None:
    criterion = Counting()
    stops = Stops(StoppingCriteriaList([criterion]), max_length=100)
    sequence = Sequence(torch.tensor([7, 8]), 0, stops, is_read=True)
    walked = torch.tensor([[7, 8, 5]])
    assert not sequence.stops_at(walked, 5) and not sequence.stops_at(walked, 5)
    assert sequence.extend([5, 6]) == 2
    assert criterion.lengths == [3, 4], "once as the path was walked, and not again as it is kept"
    assert sequence.extend([5, 6]) == 1 and sequence.finished
    assert criterion.lengths == [3, 4, 5]
