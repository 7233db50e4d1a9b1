"""Gathering rows and committing a path: the definition in plain PyTorch.

Rows move in ascending order of their place on the path. A path is strictly increasing, so a row
never lands on one that has yet to move.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparrow_kernels.ops.accept.reference import accept_tree


def gather_hidden(states: Sequence[Tensor], index: Tensor) -> Tensor:
    """Rows `index` of each layer, side by side; zeros where the index is not a row."""
    rows = states[0].shape[1]
    if rows == 0:
        width = sum(state.shape[2] for state in states)
        return states[0].new_zeros((*index.shape, width))
    exists = (index >= 0) & (index < rows)
    row = index.long().clamp(0, rows - 1)[..., None]
    gathered = [state.gather(1, row.expand(-1, -1, state.shape[2])) for state in states]
    return torch.cat(gathered, dim=-1).masked_fill(~exists[..., None], 0)


def gather_hidden_out(states: Sequence[Tensor], index: Tensor, out: Tensor) -> None:
    """`gather_hidden` into `out`."""
    out.copy_(gather_hidden(states, index))


def compact_cache_(
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    path: Tensor,
    accept_length: Tensor,
    prefix_lens: Tensor,
) -> None:
    """Row prefix_len + path[k] of every cache to row prefix_len + k."""
    capacity = keys[0].shape[2]
    counts = _num_committed(accept_length, path).tolist()
    requests = zip(path.tolist(), counts, prefix_lens.tolist(), strict=True)
    for b, (nodes, count, prefix_len) in enumerate(requests):
        for k, node in enumerate(nodes[:count]):
            source, destination = prefix_len + node, prefix_len + k
            fits = node >= 0 and 0 <= source < capacity and 0 <= destination < capacity
            if fits and source != destination:
                for cache in (*keys, *values):
                    cache[b, :, destination] = cache[b, :, source]


def _num_committed(accept_length: Tensor, path: Tensor) -> Tensor:
    """`[B]` int64 path entries that each request commits: none if idle, never more than exist."""
    return (accept_length.long() + 1).clamp(0, path.shape[1])


def commit_path_(
    path: Tensor,
    accept_length: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    states: Sequence[Tensor],
    prefix_lens: Tensor,
) -> Tensor:
    """Compact every cache, gather the path's hidden rows, advance `prefix_lens`."""
    compact_cache_(keys, values, path, accept_length, prefix_lens)
    count = _num_committed(accept_length, path)
    is_committed = torch.arange(path.shape[1], device=path.device) < count[:, None]
    hidden = gather_hidden(states, path.masked_fill(~is_committed, -1))
    advanced = (prefix_lens + count).clamp(max=keys[0].shape[2])
    prefix_lens.copy_(torch.where(count > 0, advanced, prefix_lens))
    return hidden


def commit_tree_(
    tokens: Tensor,
    parent: Tensor,
    depth: Tensor,
    ancestors: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    target_tokens: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    states: Sequence[Tensor],
    prefix_lens: Tensor,
    max_path: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`accept_tree`, then `commit_path_`: path, accept_length, tokens, hidden."""
    path, accept_length, emitted = accept_tree(
        tokens, parent, depth, ancestors, first_child, next_sibling, target_tokens, max_path
    )
    hidden = commit_path_(path, accept_length, keys, values, states, prefix_lens)
    return path, accept_length, emitted, hidden
