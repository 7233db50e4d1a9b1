"""The tree ops as PyTorch operators."""

from __future__ import annotations

import torch
from dispatch import compiles_once, opcheck
from tree_cases import each_backend, random_tree

from sparrow_kernels import build_tree, select_tree, topk_logprobs
from sparrow_kernels.ops.tree.ops import BUILD_TREE, SELECT_TREE, TOPK_LOGPROBS


def _pool(pool: int) -> tuple[torch.Tensor, torch.Tensor]:
    parent = torch.tensor([random_tree(pool, 1)] * 2, dtype=torch.int32)
    return torch.arange(2.0 * pool).neg().reshape(2, pool), parent


@each_backend(BUILD_TREE)
def test_opcheck_build_tree(backend: str) -> None:
    parent = torch.tensor([random_tree(70, 1)] * 2, dtype=torch.int32)
    opcheck(BUILD_TREE, backend, parent, None)
    opcheck(BUILD_TREE, backend, parent, torch.tensor([3, 0], dtype=torch.int32))


@each_backend(SELECT_TREE)
def test_opcheck_select_tree(backend: str) -> None:
    opcheck(SELECT_TREE, backend, *_pool(9), 5)


@each_backend(TOPK_LOGPROBS)
def test_opcheck_topk_logprobs(backend: str) -> None:
    opcheck(TOPK_LOGPROBS, backend, torch.randn(3, 11), 4)


def test_build_tree_compiles_once() -> None:
    trees = [
        torch.tensor([random_tree(n, 1)] * b, dtype=torch.int32) for b, n in ((2, 70), (3, 130))
    ]
    counts = [torch.tensor(c, dtype=torch.int32) for c in ([3, 70], [0, 9, 4])]
    compiles_once(build_tree, [lambda t=t, c=c: (t, c) for t, c in zip(trees, counts, strict=True)])


def test_select_tree_compiles_once() -> None:
    compiles_once(select_tree, [lambda n=n: (*_pool(9), n) for n in (5, 6, 8)])


def test_topk_logprobs_compiles_once() -> None:
    logits = torch.randn(3, 11)
    compiles_once(topk_logprobs, [lambda k=k: (logits, k) for k in (4, 5, 10)])
