"""Defines the tree ops: schema, fake, value check, backends."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.ops import native, registry
from sparrow_kernels.ops.library import NATIVE
from sparrow_kernels.ops.tree import checks, reference, topk_derivative


def _fake_build_tree(
    parent: Tensor, num_nodes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, size = parent.shape
    row, words = (batch, size), (batch, size, (size + reference.WORD - 1) // reference.WORD)
    return (
        parent.new_empty(row),
        parent.new_empty(row),
        parent.new_empty(words, dtype=torch.int64),
        parent.new_empty(row),
        parent.new_empty(row),
        parent.new_empty((batch,)),
    )


def _fake_select_tree(scores: Tensor, parent: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    batch = parent.shape[0]
    return parent.new_empty((batch, num_nodes - 1)), parent.new_empty((batch, num_nodes))


def _fake_topk_logprobs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (logits.shape[0], k)
    return (
        logits.new_empty(shape, dtype=torch.float32),
        logits.new_empty(shape, dtype=torch.int64),
    )


MAX_K_ON_CUDA = 64


def _takes_topk(logits: Tensor, k: int) -> registry.Reason:
    if logits.is_cuda and k > MAX_K_ON_CUDA:
        return f"k = {k} is above {MAX_K_ON_CUDA}, the most its kernel ranks"
    return None


def _checked_topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    values, ids, is_sound = NATIVE.topk_logprobs_checked.default(logits, k)
    return (values, ids) if is_sound else None


BUILD_TREE = registry.define(
    "build_tree(Tensor parent, Tensor? num_nodes)"
    " -> (Tensor parent, Tensor depth, Tensor ancestors, Tensor first_child, Tensor next_sibling,"
    " Tensor status)",
    fake=_fake_build_tree,
    check=checks.build_tree,
)
BUILD_TREE.implement("reference", reference.build_tree)
native.implement(BUILD_TREE)

SELECT_TREE = registry.define(
    "select_tree(Tensor scores, Tensor parent, SymInt num_nodes)"
    " -> (Tensor selected, Tensor parent)",
    fake=_fake_select_tree,
    check=checks.select_tree,
)
SELECT_TREE.implement("reference", reference.select_tree)
native.implement(SELECT_TREE)

TOPK_LOGPROBS = registry.define(
    "topk_logprobs(Tensor logits, SymInt k) -> (Tensor values, Tensor ids)",
    fake=_fake_topk_logprobs,
    check=checks.topk_logprobs,
)
TOPK_LOGPROBS.implement("reference", reference.topk_logprobs)
native.implement(TOPK_LOGPROBS, takes=_takes_topk, checked=_checked_topk)
TOPK_LOGPROBS.differentiate(
    topk_derivative.setup_context, topk_derivative.backward, topk_derivative.jvp
)
