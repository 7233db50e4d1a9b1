"""The native sampling ops with their checks in them, on a CPU.

Each returns None where a value is not as `checks` wants it, which then says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from sparrow_kernels.ops.library import NATIVE

Accepted = tuple[Tensor, Tensor, Tensor]


def sample_tokens(probs: Tensor, uniform: Tensor) -> Tensor | None:
    """The kernel names no token where a row has no mass."""
    ids, is_sound = NATIVE.sample_tokens_checked.default(probs, uniform)
    return ids if is_sound else None


def sample_logits(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor | None:
    """The kernel names no token where a row has no softmax."""
    checked = NATIVE.sample_logits_checked.default
    ids, is_sound = checked(logits, uniform, temperature)
    return ids if is_sound else None


def accept_tree_residual(*args: Any) -> Accepted | None:
    """All rows that a walk may come by are looked at, of which the walk itself reads few."""
    return _residual(NATIVE.accept_tree_residual.default, False, args)


def accept_tree_residual_logits(*args: Any) -> Accepted | None:
    """As `accept_tree_residual`."""
    return _residual(NATIVE.accept_tree_residual_logits.default, True, args)


def _residual(accept: Callable[..., Accepted], are_logits: bool, args: Sequence[Any]) -> Any:
    tokens, parent, depth, _, *links_and_values = args[:10]  # without the ancestors' words
    is_sound = NATIVE.residual_is_sound.default
    return accept(*args) if is_sound(tokens, parent, depth, *links_and_values, are_logits) else None
