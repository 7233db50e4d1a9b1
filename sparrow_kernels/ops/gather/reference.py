"""Gathering rows and committing a path: the definition in plain PyTorch.

Rows move in ascending order of their place on the path. A path is strictly increasing, so a row
never lands on one that has yet to move.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparrow_kernels.ops.accept.reference import accept_tree
from sparrow_kernels.ops.pages import num_slots, paged_slot


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
    block_table: Tensor | None = None,
) -> None:
    """Slot prefix_len + path[k] of every cache to slot prefix_len + k."""
    counts = _num_committed(accept_length, path).tolist()
    for layer, lens in enumerate(prefix_lens.expand(len(keys), -1).tolist()):
        for b, (nodes, count, prefix_len) in enumerate(
            zip(path.tolist(), counts, lens, strict=True)
        ):
            for k, node in enumerate(nodes[:count]):
                if node < 0 or node == k:
                    continue
                source, row = paged_slot(block_table, keys[0], b, prefix_len + node)
                destination, to = paged_slot(block_table, keys[0], b, prefix_len + k)
                if source >= 0 and destination >= 0:
                    for cache in (keys[layer], values[layer]):
                        cache[destination, :, to] = cache[source, :, row]


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
    block_table: Tensor | None = None,
) -> Tensor:
    """Compact every cache, gather the path's hidden rows, advance `prefix_lens`."""
    compact_cache_(keys, values, path, accept_length, prefix_lens, block_table)
    count = _num_committed(accept_length, path)
    is_committed = torch.arange(path.shape[1], device=path.device) < count[:, None]
    hidden = gather_hidden(states, path.masked_fill(~is_committed, -1))
    advanced = (prefix_lens + count).clamp(max=num_slots(keys[0], block_table))
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
    block_table: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`accept_tree`, then `commit_path_`: path, accept_length, tokens, hidden."""
    path, accept_length, emitted = accept_tree(
        tokens, parent, depth, ancestors, first_child, next_sibling, target_tokens, max_path
    )
    hidden = commit_path_(path, accept_length, keys, values, states, prefix_lens, block_table)
    return path, accept_length, emitted, hidden
