"""The public acceptance ops: which drafted tokens the target keeps, and the token it adds."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.accept.arguments import check_drafted, check_row
from sparrow_kernels.ops.accept.ops import ACCEPT_TREE, ACCEPT_TREE_RESIDUAL, SAMPLE_TOKENS
from sparrow_kernels.ops.errors import Size, check_rows_are_dense, check_tensor, refuse
from sparrow_kernels.ops.types import Acceptance, TreeLayout


def accept_tree(
    tokens: Tensor, layout: TreeLayout, target_tokens: Tensor, max_path: int
) -> Acceptance:
    """Walk each tree along the target's own tokens.

    From the root, go to the lowest-numbered child whose token equals `target_tokens[node]`; where
    no child has it, or the path holds `max_path` nodes, that token is the bonus. With the argmax
    of each node as target tokens this is greedy decoding. With one exact sample per node it is
    lossless sampling, for any tree, however it was drafted, duplicates included.

    Args:
        tokens: `[B, T]` int64 drafted token of each node; the root's and padding are not read.
        layout: `TreeLayout` of B trees with T nodes.
        target_tokens: `[B, T]` int64 the target's token after each node.
        max_path: S >= 1, the most nodes a path may have, the root included.

    Returns:
        `Acceptance`; an idle request has accept_length -1 and -1 everywhere.

    Raises:
        ValueError: wrong shape or `max_path`; with value checks on also links out of the tree
            (else: they end the walk).
        TypeError: wrong dtype or device.

    Source: Miao et al., SpecInfer, arXiv 2305.09781, algorithm 2 (greedy verification).

    Equivalent to:

    >>> layout = build_tree(torch.tensor([[-1, 0, 0, 2, 2]], dtype=torch.int32))
    >>> tokens = torch.tensor([[9, 4, 7, 4, 5]])
    >>> target_tokens = torch.tensor([[7, 0, 5, 0, 3]])
    >>> path, emitted = [0], []
    >>> while True:
    ...     emitted.append(target_tokens[0, path[-1]].item())
    ...     agreeing = [c for c in range(1, 5)
    ...                 if layout.parent[0, c] == path[-1] and tokens[0, c] == emitted[-1]]
    ...     if not agreeing:
    ...         break
    ...     path.append(agreeing[0])
    >>> accepted = accept_tree(tokens, layout, target_tokens, max_path=3)
    >>> accepted.path[0].tolist() == path, accepted.tokens[0].tolist() == emitted
    (True, True)
    >>> accepted.accept_length.item() == len(path) - 1
    True
    """
    sizes: dict[str, Size] = {}
    links = check_drafted("accept_tree", tokens, layout, max_path, sizes)
    check_row(
        "accept_tree", "target_tokens", target_tokens, "B T", torch.int64, sizes, tokens.device
    )
    return Acceptance(*ACCEPT_TREE(tokens, *links, target_tokens, max_path))


def sample_tokens(probs: Tensor, uniform: Tensor) -> Tensor:
    """Sample one token a row by the inverse CDF, with coins of the caller's.

    The first id whose running sum exceeds `uniform * sum`, else the last id with mass. An id
    without mass is never returned. Sums are float64 and sequential.

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
    op = "sample_tokens"
    check_tensor(op, "probs", probs, "... V", torch.float32)
    check_rows_are_dense(op, "probs", probs)
    check_tensor(op, "uniform", uniform, "...", torch.float32, None, probs.device)
    if probs.shape[-1] < 1:
        refuse(op, "probs", "[..., V] with V >= 1", list(probs.shape))
    if uniform.shape != probs.shape[:-1]:
        refuse(op, "uniform", f"[...] = {list(probs.shape[:-1])}", list(uniform.shape))
    if uniform.dim() > 0:
        check_rows_are_dense(op, "uniform", uniform)
    return SAMPLE_TOKENS(probs, uniform)


def accept_tree_residual(
    tokens: Tensor,
    layout: TreeLayout,
    target_probs: Tensor,
    draft_probs: Tensor,
    uniform: Tensor,
    bonus_uniform: Tensor,
    max_path: int,
) -> Acceptance:
    """Recursive rejection sampling: what is emitted has the target's distribution.

    Row `node` of both distributions belongs to that node: what comes after it. A node's children
    must have been sampled from its row of `draft_probs`, in node-number order, with or without
    replacement, and their number fixed before they were drawn; none may be dropped afterwards
    (for top-k trees, and for trees out of `select_tree`, sample the target and use `accept_tree`).

    At a node, its children are tried in order. Child c with token x is accepted iff
    `uniform[b, c] * draft(x) < target(x)`. After a refusal the target becomes
    `max(target - draft, 0)`, renormalised (where nothing remains, the node's original target), and
    the draft loses x and is renormalised. A child that repeats a refused token is skipped. When no
    child is left, or the path holds `max_path` nodes, the bonus is drawn from the target as it then
    is, by the inverse CDF as in `sample_tokens`. Arithmetic is float64 on a CPU.

    Args:
        tokens: `[B, T]` int64 drafted token of each node; the root's and padding are not read.
        layout: `TreeLayout` of B trees with T nodes.
        target_probs: `[B, T, V]` float32, each row a distribution once divided by its sum; padding
            is not read.
        draft_probs: `[B, T, V]` float32, likewise; leaves are not read.
        uniform: `[B, T]` float32 in [0, 1], the coin that decides each node.
        bonus_uniform: `[B]` float32 in [0, 1], the coin that draws the bonus.
        max_path: S >= 1, the most nodes a path may have, the root included.

    Returns:
        `Acceptance`; an idle request has accept_length -1 and -1 everywhere.

    Raises:
        ValueError: wrong shape or `max_path`; with value checks on also links out of the tree
            (else: they end the walk), tokens out of the vocabulary (else: skipped), coins outside
            [0, 1], and rows with NaN, negative entries or no mass (else: bonus -1).
        TypeError: wrong dtype or device.

    Source: Leviathan et al., arXiv 2211.17192 (one child); Jeon et al., arXiv 2402.14160
    (siblings without replacement).

    Equivalent to:

    >>> layout = build_tree(torch.tensor([[-1, 0, 0]], dtype=torch.int32))
    >>> tokens = torch.tensor([[9, 0, 2]])
    >>> target_probs = torch.tensor([0.2, 0.5, 0.3]).repeat(1, 3, 1)
    >>> draft_probs = torch.tensor([0.6, 0.1, 0.3]).repeat(1, 3, 1)
    >>> uniform, bonus_uniform = torch.tensor([[0.0, 0.5, 0.4]]), torch.tensor([0.9])
    >>> target, draft = target_probs[0, 0].double(), draft_probs[0, 0].double()
    >>> emitted = None
    >>> for child, x in ((1, 0), (2, 2)):
    ...     if emitted is None and uniform[0, child] * draft[x] < target[x]:
    ...         emitted = x
    ...     elif emitted is None:
    ...         target = (target - draft).clamp(min=0)
    ...         target /= target.sum()
    ...         draft[x] = 0
    ...         draft /= draft.sum()
    >>> if emitted is None:
    ...     emitted = int((target.cumsum(-1) > bonus_uniform * target.sum()).int().argmax())
    >>> accepted = accept_tree_residual(
    ...     tokens, layout, target_probs, draft_probs, uniform, bonus_uniform, max_path=2)
    >>> accepted.tokens[0, 0].item() == emitted
    True
    """
    op, device = "accept_tree_residual", tokens.device
    sizes: dict[str, Size] = {}
    links = check_drafted(op, tokens, layout, max_path, sizes)
    check_row(op, "target_probs", target_probs, "B T V", torch.float32, sizes, device)
    check_row(op, "draft_probs", draft_probs, "B T V", torch.float32, sizes, device)
    check_row(op, "uniform", uniform, "B T", torch.float32, sizes, device)
    check_row(op, "bonus_uniform", bonus_uniform, "B", torch.float32, sizes, device)
    results = ACCEPT_TREE_RESIDUAL(
        tokens, *links, target_probs, draft_probs, uniform, bonus_uniform, max_path
    )
    return Acceptance(*results)
