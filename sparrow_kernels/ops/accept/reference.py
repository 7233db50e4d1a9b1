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


def sample_rows(probs: Tensor, uniform: Tensor) -> Tensor:
    """`sample_tokens` of rows that are float64 already; the running sum is sequential."""
    cdf = probs.cumsum(-1)
    total = cdf[..., -1:]
    threshold = uniform.double()[..., None].clamp(0, 1) * total
    last_with_mass = probs.shape[-1] - 1 - (probs > 0).int().flip(-1).argmax(-1)
    above = cdf > threshold
    ids = torch.where(above.any(-1), above.int().argmax(-1), last_with_mass)
    can_be_sampled = (probs >= 0).all(-1) & (total[..., 0] > 0)  # a NaN is not >= 0
    return torch.where(can_be_sampled, ids, -1)
