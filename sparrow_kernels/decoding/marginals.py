"""Growing the best tree of per-depth distributions: the draft runs along its greedy chain only.

At depth d every node may have any of the `width` likeliest tokens of one distribution, that of the
chain, as its child. A node's score is the sum of the log-probabilities on its path, and the best
`total - 1` of all `width + width^2 + ... + width^depth` combinations are the tree.

Nothing here waits for the device: every size follows from the `TreeConfig`.

Source: the best-first tree of DDTree, made level by level.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from sparrow_kernels.decoding.protocols import Draft, Tree
from sparrow_kernels.decoding.tree_config import TreeConfig
from sparrow_kernels.ops.tree import build_tree, pack_ancestors, select_tree
from sparrow_kernels.ops.types import TreeLayout


def grow_marginals(
    draft: Draft,
    tree: TreeConfig,
    root_tokens: Tensor,
    root_hidden: Tensor,
    active: Tensor,
    scored: bool = False,
) -> Tree:
    """See `grow_tree`; `depth` rows of the draft, the root's included, whatever the `total`."""
    log_probs, tokens = _along_the_chain(draft, tree, root_hidden)
    drafted, parents = best_combinations(log_probs, tokens, tree.total)
    layout = build_tree(parents, active * tree.total)
    scores = None
    if scored:
        scores = with_root(root_tokens, _path_scores(log_probs, tokens, drafted, parents, layout))
    return Tree(torch.cat([root_tokens[:, None], drafted], dim=1), layout, None, scores)


def _path_scores(
    log_probs: Tensor, tokens: Tensor, drafted: Tensor, parents: Tensor, layout: TreeLayout
) -> Tensor:
    """`[B, total - 1]`: the sum along the path of each drafted node."""
    level = (layout.depth[:, 1:].long() - 1).clamp_min(0)[:, :, None]
    is_own = tokens.take_along_dim(level, dim=1) == drafted[:, :, None]
    own = log_probs.take_along_dim(level, dim=1).masked_fill(~is_own, 0.0).sum(dim=2)
    above, scores = parents.long().clamp_min(0), torch.nn.functional.pad(own, (1, 0))
    own = scores
    for _ in range(1, log_probs.shape[1]):
        scores = own + scores.gather(1, above)
    return scores[:, 1:]


def with_root(root_tokens: Tensor, *scores: Tensor) -> Tensor:
    """`[B, 1 + n]` float32: 0 for the roots `[B]`, then `scores`, `[B, n]` together."""
    zeros = root_tokens.new_zeros((len(root_tokens), 1), dtype=torch.float32)
    return torch.cat([zeros, *scores], dim=1)


def best_combinations(log_probs: Tensor, tokens: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """The best tree of `total` nodes, root included, of one distribution a depth.

    Ties go to the lower depth, then to the node whose parent is better, then to the lower rank.

    Args:
        log_probs: `[B, depth, width]` float32, at most 0, each row descending.
        tokens: `[B, depth, width]` int64, the tokens they are of.
        total: 1 to 1 + width + width^2 + ... + width^depth.

    Returns:
        Tokens `[B, total - 1]` int64 and parents `[B, total]` int32 for `build_tree`, level by
        level, the best of a level first.
    """
    batch, depth, width = log_probs.shape
    # An ancestor ties with a node or outranks it, so a node of the tree is among the best
    # `total - 1` of its level, and so is its parent: a beam of that size misses none.
    most = max(1, total - 1)
    scores = log_probs.new_zeros((batch, 1))
    pool_scores, pool_tokens, pool_parents = [], [], []
    level_start = -1  # pool number of the first node of the level above, the root's -1
    for level in range(depth):
        parents = scores.shape[1]
        parent, rank = _contenders(parents, width, most, log_probs.device)
        grown = scores[:, parent] + log_probs[:, level, rank]
        best = grown.sort(dim=1, descending=True, stable=True)  # `topk` leaves ties open
        kept = min(parents * width, most)
        scores, chosen = best.values[:, :kept], best.indices[:, :kept]
        pool_scores.append(scores)
        pool_tokens.append(tokens[:, level].gather(1, rank[chosen]))
        pool_parents.append((level_start + parent[chosen]).int())
        level_start += parents
    selected, parents_of_nodes = select_tree(
        torch.cat(pool_scores, dim=1), torch.cat(pool_parents, dim=1), total
    )
    return torch.cat(pool_tokens, dim=1).gather(1, selected.long()), parents_of_nodes


def _along_the_chain(draft: Draft, tree: TreeConfig, root_hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The best of each depth's distribution, `[B, depth, width]`: log-probabilities and tokens.

    The depths after the first are those behind the best token of each depth before.
    """
    batch = root_hidden.shape[0]
    # A node of rank r has r - 1 better siblings, so a rank of `total` or more is never kept.
    width = min(tree.width, max(1, tree.total - 1))
    sees = chain(max(1, tree.grown_slots), root_hidden.device).expand(batch, -1, -1)
    output = root_hidden[:, None]
    levels = [draft.best(output[:, 0], width)]
    for level in range(1, tree.depth):
        slot = level - 1
        token = levels[-1][1][:, :1]
        output = draft.grow(token, output, level, slot, sees[:, slot : slot + 1])
        levels.append(draft.best(output[:, 0], width))
    log_probs, tokens = zip(*levels, strict=True)
    return torch.stack(log_probs, dim=1), torch.stack(tokens, dim=1)


@cache
def chain(slots: int, device: torch.device) -> Tensor:
    """`[1, slots, W]` int64: row s has bits 0 to s."""
    return pack_ancestors(torch.ones((1, slots, slots), dtype=torch.bool).tril()).to(device)


@cache
def _contenders(parents: int, width: int, most: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Parents and ranks `[n]` int64 of the children that can be among the best `most` of a level.

    Parents and ranks both come best first, so the child of parent i with rank j, counted from 0,
    has `(i + 1) * (j + 1) - 1` others that tie with it or outrank it: of `parents * width` children
    about `most * log(most)` are left.
    """
    pairs = [
        (parent, rank)
        for parent in range(min(parents, most))
        for rank in range(min(width, most // (parent + 1)))
    ]
    parent, rank = torch.tensor(pairs).T.contiguous().to(device)
    return parent, rank
