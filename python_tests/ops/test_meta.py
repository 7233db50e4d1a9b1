"""Tensors on the device `meta` have no values: an op gives the shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

import sparrow_kernels as sk

INT32 = {"dtype": torch.int32}
LAYOUT = sk.build_tree(torch.tensor([[-1, 0, 0]], **INT32))
TOKENS, LENGTHS = torch.tensor([[1, 2, 3]]), torch.tensor([4], **INT32)
ROWS, KEY = torch.ones(1, 2, 3, 8), torch.ones(1, 2, 9, 8)
MASK = torch.ones(1, 9, dtype=torch.bool)
ANGLES, LOGITS, COINS = torch.ones(1, 3, 8), torch.ones(1, 3, 5), torch.full((1, 3), 0.5)
STATES = [torch.ones(1, 3, 6)]
ACCEPTED = sk.accept_tree(TOKENS, LAYOUT, TOKENS, 3)
CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "accept_tree": (lambda *a: sk.accept_tree(*a, 3), (TOKENS, LAYOUT, TOKENS)),
    "accept_tree_residual": (
        lambda *a: sk.accept_tree_residual(*a, 3),
        (TOKENS, LAYOUT, LOGITS, LOGITS, COINS, COINS[:, 0]),
    ),
    "accept_tree_residual_logits": (
        lambda *a: sk.accept_tree_residual_logits(*a, 3),
        (TOKENS, LAYOUT, LOGITS, LOGITS, COINS, COINS[:, 0]),
    ),
    "anchor_index": (sk.anchor_index, (MASK,)),
    "anchored_window_attention": (
        lambda *a: sk.anchored_window_attention(*a, window=2, return_lse=True),
        (ROWS, KEY, KEY, MASK),
    ),
    "append_cache_": (sk.append_cache_, (ROWS, ROWS, KEY, KEY.clone(), LENGTHS)),
    "attention_mass": (sk.attention_mass, (ROWS, KEY, LENGTHS)),
    "bind_caches": (lambda *a: list(map(list, sk.bind_caches(*a))), ([KEY], [KEY.clone()])),
    "build_tree": (sk.build_tree, (LAYOUT.parent,)),
    "commit_path_": (sk.commit_path_, (ACCEPTED, [KEY], [KEY.clone()], STATES, LENGTHS.clone())),
    "commit_tree_": (
        lambda *a: sk.commit_tree_(*a, 3),
        (TOKENS, LAYOUT, TOKENS, [KEY], [KEY.clone()], STATES, LENGTHS.clone()),
    ),
    "compact_cache_": (
        sk.compact_cache_,
        ([KEY], [KEY.clone()], ACCEPTED.path, ACCEPTED.accept_length, LENGTHS),
    ),
    "dense_tree_mask": (lambda *a: sk.dense_tree_mask(*a, 9), (LAYOUT, LENGTHS)),
    "gather_hidden": (sk.gather_hidden, (STATES, ACCEPTED.path)),
    "merge_attention": (sk.merge_attention, ([ROWS, ROWS], [ROWS[..., 0], ROWS[..., 0]])),
    "pack_ancestors": (sk.pack_ancestors, (torch.ones(1, 3, 3, dtype=torch.bool),)),
    "rotate_append_": (
        sk.rotate_append_,
        (ROWS, ROWS, ROWS, ANGLES, ANGLES, KEY, KEY.clone(), LENGTHS),
    ),
    "sample_logits": (sk.sample_logits, (LOGITS, COINS)),
    "sample_tokens": (sk.sample_tokens, (LOGITS, COINS)),
    "select_tree": (
        lambda *a: sk.select_tree(*a, 3),
        (torch.ones(1, 4), torch.full((1, 4), -1, **INT32)),
    ),
    "topk_logprobs": (lambda *a: sk.topk_logprobs(*a, 2), (LOGITS,)),
    "tree_attention": (
        lambda *a: sk.tree_attention(*a, return_lse=True),
        (ROWS, KEY, KEY, LAYOUT.ancestors, LENGTHS),
    ),
    "unpack_ancestors": (lambda *a: sk.unpack_ancestors(*a, 3), (LAYOUT.ancestors,)),
}


def test_every_op_has_a_call() -> None:
    families = ("ops.tree", "ops.accept", "ops.gather", "ops.attention")
    assert set(CALLS) == {name for name, home in sk._HOMES.items() if home in families}


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_shapes_without_values(name: str, checked: bool) -> None:
    call, given = CALLS[name]
    expected = tree_leaves(call(*tree_map_only(Tensor, Tensor.clone, given)))
    with sk.checks(checked):
        got = tree_leaves(call(*tree_map_only(Tensor, lambda each: each.to("meta"), given)))
    for one, other in zip(got, expected, strict=True):
        if other is None:
            assert one is None
        else:
            assert one.is_meta and (one.shape, one.dtype) == (other.shape, other.dtype)
