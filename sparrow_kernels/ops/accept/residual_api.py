"""Public recursive rejection sampling over trees of sampled children."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparrow_kernels.ops.accept.arguments import (
    LOGIT_DTYPES,
    Links,
    check_drafted,
    check_row,
    check_temperature,
)
from sparrow_kernels.ops.accept.ops import ACCEPT_TREE_RESIDUAL, ACCEPT_TREE_RESIDUAL_LOGITS
from sparrow_kernels.ops.errors import Size, refuse
from sparrow_kernels.ops.types import Acceptance, TreeLayout


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
    is, by the inverse CDF as in `sample_tokens`. Sums keep more digits than float32; a result on a
    GPU may differ from the CPU's where a coin lies within 1e-6 of a step of what it decides or,
    after refusals, within 1e-6 over the share of the target's mass that they have left.

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
    links = _check_walk(
        "accept_tree_residual", tokens, layout, uniform, bonus_uniform, max_path,
        ("target_probs", target_probs), ("draft_probs", draft_probs), torch.float32,
    )  # fmt: skip
    results = ACCEPT_TREE_RESIDUAL(
        tokens, *links, target_probs, draft_probs, uniform, bonus_uniform, max_path
    )
    return Acceptance(*results)


def accept_tree_residual_logits(
    tokens: Tensor,
    layout: TreeLayout,
    target_logits: Tensor,
    draft_logits: Tensor,
    uniform: Tensor,
    bonus_uniform: Tensor,
    max_path: int,
    temperature: float = 1.0,
    draft_temperature: float | None = None,
) -> Acceptance:
    """`accept_tree_residual` of two softmaxes, without a `[B, T, V]` of probabilities.

    The target is softmax(target_logits / temperature). A node's children must have been sampled
    from its row of softmax(draft_logits / draft_temperature): give the temperature they were drawn
    at. A token whose logit is -inf, or lies 87 temperatures or more below the largest, has no mass.

    Args:
        tokens: `[B, T]` int64 drafted token of each node; the root's and padding are not read.
        layout: `TreeLayout` of B trees with T nodes.
        target_logits: `[B, T, V]` float32, float16 or bfloat16; padding is not read.
        draft_logits: `[B, T, V]` of the same dtype; leaves are not read.
        uniform: `[B, T]` float32 in [0, 1], the coin that decides each node.
        bonus_uniform: `[B]` float32 in [0, 1], the coin that draws the bonus.
        max_path: S >= 1, the most nodes a path may have, the root included.
        temperature: above 0, of the target. For 0 take the argmax and `accept_tree`.
        draft_temperature: above 0, of the draft; None for that of the target.

    Returns:
        `Acceptance`; an idle request has accept_length -1 and -1 everywhere.

    Raises:
        ValueError: wrong shape, `max_path` or temperature; with value checks on also links out of
            the tree (else: they end the walk), tokens out of the vocabulary (else: skipped), coins
            outside [0, 1], and rows with NaN, +inf or nothing but -inf (else: bonus -1).
        TypeError: wrong dtype or device.

    Source: as `accept_tree_residual`.

    Equivalent to:

    >>> layout = build_tree(torch.tensor([[-1, 0, 0, 1]], dtype=torch.int32))
    >>> tokens = torch.tensor([[9, 0, 2, 1]])
    >>> target_logits, draft_logits = torch.randn(1, 4, 5), torch.randn(1, 4, 5)
    >>> uniform, bonus_uniform = torch.tensor([[0.0, 0.9, 0.8, 0.3]]), torch.tensor([0.6])
    >>> target_probs, draft_probs = (target_logits / 0.8).softmax(-1), draft_logits.softmax(-1)
    >>> expected = accept_tree_residual(
    ...     tokens, layout, target_probs, draft_probs, uniform, bonus_uniform, max_path=3)
    >>> accepted = accept_tree_residual_logits(
    ...     tokens, layout, target_logits, draft_logits, uniform, bonus_uniform, max_path=3,
    ...     temperature=0.8, draft_temperature=1.0)
    >>> all(torch.equal(one, other) for one, other in zip(accepted, expected))
    True
    """
    op = "accept_tree_residual_logits"
    if draft_temperature is None:
        draft_temperature = temperature
    check_temperature(op, "temperature", temperature)
    check_temperature(op, "draft_temperature", draft_temperature)
    links = _check_walk(
        op, tokens, layout, uniform, bonus_uniform, max_path,
        ("target_logits", target_logits), ("draft_logits", draft_logits), LOGIT_DTYPES,
    )  # fmt: skip
    results = ACCEPT_TREE_RESIDUAL_LOGITS(
        tokens, *links, target_logits, draft_logits, uniform, bonus_uniform, max_path,
        temperature, draft_temperature,
    )  # fmt: skip
    return Acceptance(*results)


def _check_walk(
    op: str,
    tokens: Tensor,
    layout: TreeLayout,
    uniform: Tensor,
    bonus_uniform: Tensor,
    max_path: int,
    target: tuple[str, Tensor],
    draft: tuple[str, Tensor],
    dtypes: torch.dtype | Sequence[torch.dtype],
) -> Links:
    device = tokens.device
    sizes: dict[str, Size] = {}
    links = check_drafted(op, tokens, layout, max_path, sizes)
    rows = check_row(op, *target, "B T V", dtypes, sizes, device)
    check_row(op, *draft, "B T V", rows.dtype, sizes, device)
    if sizes["V"] < 1:
        refuse(op, target[0], "[B, T, V] with V >= 1", list(rows.shape))
    check_row(op, "uniform", uniform, "B T", torch.float32, sizes, device)
    check_row(op, "bonus_uniform", bonus_uniform, "B", torch.float32, sizes, device)
    return links
