"""The acceptance ops as PyTorch operators."""

from __future__ import annotations

from typing import Any

import torch
from dispatch import compiles_once, opcheck
from tree_cases import each_backend, random_tree

from sparrow_kernels import (
    Acceptance,
    accept_tree,
    accept_tree_residual,
    accept_tree_residual_logits,
    build_tree,
    sample_logits,
    sample_tokens,
)
from sparrow_kernels.ops.accept.ops import (
    ACCEPT_TREE,
    ACCEPT_TREE_RESIDUAL,
    ACCEPT_TREE_RESIDUAL_LOGITS,
    SAMPLE_LOGITS,
    SAMPLE_TOKENS,
)

SIZE, V = 9, 5
LAYOUT = build_tree(torch.tensor([random_tree(SIZE, 1)] * 2, dtype=torch.int32))
TOKENS = torch.arange(2 * SIZE).reshape(2, SIZE) % 3
PROBS = torch.arange(2.0 * SIZE * V).reshape(2, SIZE, V).sin().softmax(-1)
LOGITS = PROBS.log().bfloat16()
COINS = torch.arange(2.0 * SIZE).reshape(2, SIZE) / 20


@each_backend(ACCEPT_TREE)
def test_opcheck_accept_tree(backend: str) -> None:
    opcheck(ACCEPT_TREE, backend, TOKENS, *LAYOUT[:5], TOKENS.flip(1), 4)


@each_backend(SAMPLE_TOKENS)
def test_opcheck_sample_tokens(backend: str) -> None:
    opcheck(SAMPLE_TOKENS, backend, PROBS, COINS)


@each_backend(ACCEPT_TREE_RESIDUAL)
def test_opcheck_accept_tree_residual(backend: str) -> None:
    arguments = (TOKENS, *LAYOUT[:5], PROBS, PROBS.flip(2), COINS, COINS[:, 3].contiguous(), 4)
    opcheck(ACCEPT_TREE_RESIDUAL, backend, *arguments)


@each_backend(SAMPLE_LOGITS)
def test_opcheck_sample_logits(backend: str) -> None:
    opcheck(SAMPLE_LOGITS, backend, LOGITS, COINS, 0.7)


@each_backend(ACCEPT_TREE_RESIDUAL_LOGITS)
def test_opcheck_accept_tree_residual_logits(backend: str) -> None:
    coins = (COINS, COINS[:, 3].contiguous())
    arguments = (TOKENS, *LAYOUT[:5], LOGITS, LOGITS.flip(2), *coins, 4, 0.7, 1.5)
    opcheck(ACCEPT_TREE_RESIDUAL_LOGITS, backend, *arguments)


def test_accept_tree_compiles_once() -> None:
    calls = [lambda s=s: (TOKENS, LAYOUT, TOKENS.flip(1), s) for s in (2, 3, 7)]
    compiles_once(accept_tree, calls)


def test_sample_tokens_compiles_once() -> None:
    calls = [lambda n=n: (PROBS[:, :n].clone(), COINS[:, :n].clone()) for n in (9, 4)]
    compiles_once(sample_tokens, calls)


def test_accept_tree_residual_compiles_once() -> None:
    bonus = COINS[:, 3].contiguous()
    calls = [lambda s=s: (TOKENS, LAYOUT, PROBS, PROBS.flip(2), COINS, bonus, s) for s in (2, 5)]
    compiles_once(accept_tree_residual, calls)


# A temperature is a constant of the graph: a new one recompiles.
def _sample_at_half(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    return sample_logits(logits, uniform, 0.5)


def _accept_at_half(*arguments: Any) -> Acceptance:
    return accept_tree_residual_logits(*arguments, temperature=0.5)


def test_sample_logits_compiles_once() -> None:
    calls = [lambda n=n: (LOGITS[:, :n].clone(), COINS[:, :n].clone()) for n in (9, 4)]
    compiles_once(_sample_at_half, calls)


def test_accept_tree_residual_logits_compiles_once() -> None:
    bonus, draft = COINS[:, 3].contiguous(), LOGITS.flip(2)
    calls = [lambda s=s: (TOKENS, LAYOUT, LOGITS, draft, COINS, bonus, s) for s in (2, 5)]
    compiles_once(_accept_at_half, calls)
