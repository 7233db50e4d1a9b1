"""What the acceptance ops refuse when values are checked."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops.errors import refuse
from sparrow_kernels.ops.values import refuse_first


def check_links(op: str, depth: Tensor, first_child: Tensor, next_sibling: Tensor) -> None:
    """Refuse a root depth or a link that no layout holds."""
    size = depth.shape[1]
    root = depth[:, :1]
    refuse_first(op, "layout.depth", "0 at the root, -1 if idle", depth, (root < -1) | (root > 0))
    node = torch.arange(size, device=depth.device)
    must_be = f"-1 or a later node below T = {size}"
    for name, links in (("first_child", first_child), ("next_sibling", next_sibling)):
        bad = (links != -1) & ((links <= node) | (links >= size))
        refuse_first(op, f"layout.{name}", must_be, links, bad)


def accept_tree(
    tokens: Tensor,
    parent: Tensor,
    depth: Tensor,
    ancestors: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    target_tokens: Tensor,
    max_path: int,
) -> None:
    """The links lead from each node to later nodes."""
    check_links("accept_tree", depth, first_child, next_sibling)


def sample_tokens(probs: Tensor, uniform: Tensor) -> None:
    """Coins are in [0, 1], rows have mass and neither NaN, infinite nor negative entries."""
    _check_coins("sample_tokens", "uniform", uniform, torch.ones_like(uniform, dtype=torch.bool))
    _check_rows("sample_tokens", "probs", probs, torch.ones_like(uniform, dtype=torch.bool))


def sample_logits(logits: Tensor, uniform: Tensor, temperature: float) -> None:
    """Coins are in [0, 1], rows are without NaN and +inf and finite somewhere."""
    everywhere = torch.ones_like(uniform, dtype=torch.bool)
    _check_coins("sample_logits", "uniform", uniform, everywhere)
    _check_logits("sample_logits", "logits", logits, everywhere)


def accept_tree_residual(
    tokens: Tensor,
    parent: Tensor,
    depth: Tensor,
    ancestors: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    target_probs: Tensor,
    draft_probs: Tensor,
    uniform: Tensor,
    bonus_uniform: Tensor,
    max_path: int,
) -> None:
    """What a walk may read is sound: rows, coins and tokens of padding may hold anything."""
    op = "accept_tree_residual"
    vocabulary = target_probs.shape[-1]
    _check_walk(op, tokens, depth, first_child, next_sibling, uniform, bonus_uniform, vocabulary)
    _check_rows(op, "target_probs", target_probs, depth >= 0)
    _check_rows(op, "draft_probs", draft_probs, (depth >= 0) & (first_child >= 0))


def accept_tree_residual_logits(
    tokens: Tensor,
    parent: Tensor,
    depth: Tensor,
    ancestors: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    target_logits: Tensor,
    draft_logits: Tensor,
    uniform: Tensor,
    bonus_uniform: Tensor,
    max_path: int,
    temperature: float,
    draft_temperature: float,
) -> None:
    """As for `accept_tree_residual`."""
    op = "accept_tree_residual_logits"
    vocabulary = target_logits.shape[-1]
    _check_walk(op, tokens, depth, first_child, next_sibling, uniform, bonus_uniform, vocabulary)
    _check_logits(op, "target_logits", target_logits, depth >= 0)
    _check_logits(op, "draft_logits", draft_logits, (depth >= 0) & (first_child >= 0))


def _check_walk(
    op: str,
    tokens: Tensor,
    depth: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    uniform: Tensor,
    bonus_uniform: Tensor,
    vocabulary: int,
) -> None:
    check_links(op, depth, first_child, next_sibling)
    is_drafted = depth > 0
    beyond = is_drafted & ((tokens < 0) | (tokens >= vocabulary))
    refuse_first(op, "tokens", f"in 0..V - 1 = {vocabulary - 1}", tokens, beyond)
    _check_coins(op, "uniform", uniform, is_drafted)
    _check_coins(op, "bonus_uniform", bonus_uniform, depth[:, 0] >= 0)


def _check_coins(op: str, argument: str, uniform: Tensor, is_used: Tensor) -> None:
    bad = is_used & ~((uniform >= 0) & (uniform <= 1))  # a NaN fails both
    refuse_first(op, argument, "in [0, 1]", uniform, bad)


def _check_rows(op: str, argument: str, probs: Tensor, is_used: Tensor) -> None:
    """The rows of `probs` `[..., V]` where `is_used` `[...]` can be sampled from."""
    lowest, total = probs.amin(-1), probs.sum(-1, dtype=torch.float64)
    bad = is_used & ~((lowest >= 0) & (total > 0) & total.isfinite())
    if not bool(bad.any()):
        return
    where = tuple(bad.nonzero()[0].tolist())
    row = argument + "".join(f"[{index}]" for index in where)
    refuse(
        op,
        argument,
        "finite, not negative, and not zero all along a row",
        f"{row} with minimum {float(lowest[where])} and sum {float(total[where])}",
    )


def _check_logits(op: str, argument: str, logits: Tensor, is_used: Tensor) -> None:
    """The rows of `logits` `[..., V]` where `is_used` `[...]` have a softmax."""
    highest = logits.amax(-1)  # shows a NaN, a +inf, and a row of -inf
    bad = is_used & ~highest.isfinite()
    if not bool(bad.any()):
        return
    where = tuple(bad.nonzero()[0].tolist())
    row = argument + "".join(f"[{index}]" for index in where)
    must_be = "without NaN and +inf, and finite somewhere in each row"
    refuse(op, argument, must_be, f"{row} with maximum {float(highest[where])}")
