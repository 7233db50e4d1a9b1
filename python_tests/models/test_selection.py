"""What processors are told of a request, and when two calls choose alike."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation import (
    PrefixConstrainedLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TopKLogitsWarper,
)

from sparrow_kernels.models.selection import TokenChooser, _for_request


def test_allowed_tokens_are_asked_for_by_the_request_s_own_number() -> None:
    """A request is processed alone, where it would be number 0."""
    asked: list[int] = []

    def allowed(request: int, ids: Any) -> list[int]:
        asked.append(request)
        return [request]

    processors = LogitsProcessorList([PrefixConstrainedLogitsProcessor(allowed, 1)])
    ids: Any = torch.zeros((1, 4), dtype=torch.int64)
    scores: Any = torch.zeros(1, 5)
    for request in range(3):
        kept = _for_request(processors, request)(ids, scores)[0]
        assert kept.isfinite().nonzero().tolist() == [[request]]
    assert asked == [0, 1, 2]


def settings(*processors: Any) -> Any:
    return TokenChooser(LogitsProcessorList(processors), [], None).settings


def test_choosers_are_alike_where_all_that_they_depend_on_can_be_compared() -> None:
    assert settings(TopKLogitsWarper(5)) == settings(TopKLogitsWarper(5))
    assert settings(TopKLogitsWarper(5)) != settings(TopKLogitsWarper(6))
    # Its ids are a tensor: of two such nobody can say, so what was captured is captured anew.
    assert settings(TopKLogitsWarper(5), SuppressTokensLogitsProcessor([3])) is None
