"""The public sampling ops: one token a row, by the inverse CDF."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparrow_kernels.ops.accept.arguments import LOGIT_DTYPES, check_temperature
from sparrow_kernels.ops.accept.ops import SAMPLE_LOGITS, SAMPLE_TOKENS
from sparrow_kernels.ops.errors import check_rows_are_dense, check_tensor, refuse


def sample_tokens(probs: Tensor, uniform: Tensor) -> Tensor:
    """Sample one token a row by the inverse CDF, with coins of the caller's.

    The first id whose running sum exceeds `uniform * sum`, else the last id with mass. An id
    without mass is never returned. Sums are float64, in an order that no number of threads changes;
    on a GPU a token may differ where the coin lies within 1e-6 of the sum of a step of the
    distribution.

    Args:
        probs: `[..., V]` float32, not negative; rows need not sum to 1.
        uniform: `[...]` float32 in [0, 1].

    Returns:
        `[...]` int64 token ids.

    Raises:
        ValueError: wrong shape; with value checks on also a coin outside [0, 1] (else: clamped) and
            a row with NaN, negative entries or no mass (else: -1).
        TypeError: wrong dtype or device.

    Equivalent to:

    >>> probs = torch.tensor([[0.0, 0.25, 0.0, 0.5], [3.0, 1.0, 0.0, 0.0]])
    >>> uniform = torch.tensor([0.5, 1.0])
    >>> cdf = probs.double().cumsum(-1)
    >>> drawn = (cdf > uniform[:, None] * cdf[:, -1:]).int().argmax(-1)
    >>> last_with_mass = torch.tensor([row.nonzero().max() for row in probs])
    >>> expected = torch.where(uniform < 1, drawn, last_with_mass)
    >>> torch.equal(sample_tokens(probs, uniform), expected)
    True
    """
    _check_samples("sample_tokens", "probs", probs, uniform, torch.float32)
    return SAMPLE_TOKENS(probs, uniform)


def sample_logits(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """Sample one token a row from softmax(logits / temperature), with coins of the caller's.

    `sample_tokens` of the softmax, without a `[..., V]` of probabilities. A token whose logit is
    -inf, or lies 87 temperatures or more below the largest, has no mass and is never returned. On a
    GPU a token may differ from the CPU's where the coin lies within 1e-6 of a step of the
    distribution.

    Args:
        logits: `[..., V]` float32, float16 or bfloat16; -inf masks a token.
        uniform: `[...]` float32 in [0, 1].
        temperature: above 0. For 0 take the argmax.

    Returns:
        `[...]` int64 token ids.

    Raises:
        ValueError: wrong shape or temperature; with value checks on also a coin outside [0, 1]
            (else: clamped) and a row with NaN, +inf or nothing but -inf (else: -1).
        TypeError: wrong dtype or device.

    Equivalent to:

    >>> logits = torch.tensor([[0.0, 2.0, -torch.inf, 1.0]]).repeat(5, 1)
    >>> uniform = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    >>> probs = (logits / 0.7).softmax(-1)
    >>> torch.equal(sample_logits(logits, uniform, 0.7), sample_tokens(probs, uniform))
    True
    """
    check_temperature("sample_logits", "temperature", temperature)
    _check_samples("sample_logits", "logits", logits, uniform, LOGIT_DTYPES)
    return SAMPLE_LOGITS(logits, uniform, temperature)


def _check_samples(
    op: str,
    argument: str,
    rows: Tensor,
    uniform: Tensor,
    dtypes: torch.dtype | Sequence[torch.dtype],
) -> None:
    check_tensor(op, argument, rows, "... V", dtypes)
    check_rows_are_dense(op, argument, rows)
    check_tensor(op, "uniform", uniform, "...", torch.float32, None, rows.device)
    if rows.shape[-1] < 1:
        refuse(op, argument, "[..., V] with V >= 1", list(rows.shape))
    if uniform.shape != rows.shape[:-1]:
        refuse(op, "uniform", f"[...] = {list(rows.shape[:-1])}", list(uniform.shape))
    if uniform.dim() > 0:
        check_rows_are_dense(op, "uniform", uniform)
