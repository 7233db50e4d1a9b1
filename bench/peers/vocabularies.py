"""Top-k and sampling over a vocabulary by tensor operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.case import Arguments, TorchWay, Way


def topk_logprobs() -> list[Way]:
    return list(TorchWay(_topk_logprobs, "log_softmax + topk").ways())


def _topk_logprobs(arguments: Arguments) -> Any:
    """Ties as `torch.topk` leaves them, so a case should have none among its best."""
    return tuple(arguments["logits"].float().log_softmax(-1).topk(arguments["k"]))


def sample_tokens() -> list[Way]:
    return list(TorchWay(_sample_tokens, "cumsum + searchsorted").ways())


def _sample_tokens(arguments: Arguments) -> Tensor:
    """In float64: in float32 the cumulative sum of a large vocabulary names other ids."""
    return _searched(arguments["probs"].double(), arguments["uniform"])


def sample_logits() -> list[Way]:
    return list(TorchWay(_sample_logits, "softmax + cumsum + searchsorted").ways())


def _sample_logits(arguments: Arguments) -> Tensor:
    return _searched(arguments["logits"].double().softmax(-1), arguments["uniform"])


def _searched(probs: Tensor, uniform: Tensor) -> Tensor:
    cdf = probs.cumsum(-1)
    threshold = uniform.double().unsqueeze(-1) * cdf[..., -1:]
    return torch.searchsorted(cdf, threshold, right=True).squeeze(-1)
