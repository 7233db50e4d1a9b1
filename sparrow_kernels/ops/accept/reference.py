"""Acceptance by the target's own tokens, and sampling: the definition in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.accept.walk import Links, Walk, acceptance


def accept_tree(
    tokens: Tensor,
    parent: Tensor,
    depth: Tensor,
    ancestors: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    target_tokens: Tensor,
    max_path: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk each tree along `target_tokens`: path, accept_length, tokens."""
    walks = [
        _walk(Links(depth[b], first_child[b], next_sibling[b]), drafted, wanted, max_path)
        for b, (drafted, wanted) in enumerate(
            zip(tokens.tolist(), target_tokens.tolist(), strict=True)
        )
    ]
    return acceptance(walks, max_path, tokens.device)


def _walk(links: Links, drafted: list[int], wanted: list[int], max_path: int) -> Walk:
    if links.is_idle:
        return [], []
    path, emitted = [0], [wanted[0]]
    while len(path) < max_path:
        node = path[-1]
        child = next((c for c in links.children(node) if drafted[c] == wanted[node]), None)
        if child is None:
            break
        path.append(child)
        emitted.append(wanted[child])
    return path, emitted


def sample_tokens(probs: Tensor, uniform: Tensor) -> Tensor:
    """Inverse CDF: the first id with cdf > uniform * sum, else the last id with mass; or -1."""
    return sample_rows(probs.double(), uniform)


def sample_logits(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """`sample_tokens` of softmax(logits / temperature)."""
    return sample_rows(softmax_weights(logits, temperature), uniform)


LOWEST_EXPONENT = -87.0
"""An id this far below the likeliest one, in units of the temperature, has no mass: float32 holds
hardly less."""


def softmax_weights(logits: Tensor, temperature: float) -> Tensor:
    """`[..., V]` float64 weights of softmax(logits / temperature): the largest 1, or all NaN."""
    rows = logits.double()
    exponent = (rows - rows.amax(-1, keepdim=True)) / temperature
    return exponent.exp().masked_fill(exponent < LOWEST_EXPONENT, 0)


def sample_rows(weights: Tensor, uniform: Tensor) -> Tensor:
    """`sample_tokens` of rows that are float64 already; the running sum is sequential."""
    cdf = weights.cumsum(-1)
    total = cdf[..., -1:]
    threshold = uniform.double()[..., None].clamp(0, 1) * total
    last_with_mass = weights.shape[-1] - 1 - (weights > 0).int().flip(-1).argmax(-1)
    above = cdf > threshold
    ids = torch.where(above.any(-1), above.int().argmax(-1), last_with_mass)
    return torch.where(have_mass(weights), ids, -1)


def have_mass(weights: Tensor) -> Tensor:
    """`[...]` bool: which rows `[..., V]` can be sampled from."""
    total = weights.sum(-1)
    return (weights >= 0).all(-1) & (total > 0) & total.isfinite()  # a NaN is not >= 0
