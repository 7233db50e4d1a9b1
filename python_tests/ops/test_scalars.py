"""Every public function names an argument that is no number, or none of the right kind."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from dispatch import compiles_once

import sparrow_kernels as sk

INT32 = {"dtype": torch.int32}
LAYOUT = sk.build_tree(torch.tensor([[-1, 0, 0]], **INT32))
TOKENS, LENGTHS = torch.tensor([[1, 2, 3]]), torch.tensor([1], **INT32)
QUERY, KEY = torch.ones(1, 2, 3, 8), torch.ones(1, 2, 9, 8)
MASK = torch.arange(9)[None] < 2
PROBS, COINS = torch.ones(1, 3, 5), torch.full((1, 3), 0.5)
COIN = torch.full((1,), 0.5)
ANCHORED = {"anchors": sk.anchor_index(MASK), "window": 2, "depth": LAYOUT.depth}
CALLS: dict[str, Callable[..., Any]] = {
    "accept_tree": lambda max_path=3: sk.accept_tree(TOKENS, LAYOUT, TOKENS, max_path),
    "accept_tree_residual": lambda max_path=3: sk.accept_tree_residual(
        TOKENS, LAYOUT, PROBS, PROBS, COINS, COIN, max_path
    ),
    "accept_tree_residual_logits": lambda max_path=3, **given: sk.accept_tree_residual_logits(
        TOKENS, LAYOUT, PROBS, PROBS, COINS, COIN, max_path, **given
    ),
    "anchor_index": lambda max_anchors=9: sk.anchor_index(MASK, max_anchors),
    "anchored_window_attention": lambda **given: sk.anchored_window_attention(
        QUERY, KEY, KEY, MASK, **{"window": 2, **given}
    ),
    "attention_mass": lambda **given: sk.attention_mass(QUERY, KEY, LENGTHS, **given),
    "commit_tree_": lambda max_path=3: sk.commit_tree_(
        TOKENS, LAYOUT, TOKENS, *sk.bind_caches([KEY.clone()], [KEY.clone()]), [], LENGTHS.clone(),
        max_path,
    ),
    "dense_tree_mask": lambda capacity=9: sk.dense_tree_mask(LAYOUT, LENGTHS, capacity),
    "sample_logits": lambda temperature=1.0: sk.sample_logits(PROBS, COINS, temperature),
    "select_tree": lambda num_nodes=3: sk.select_tree(
        torch.ones(1, 4), torch.full((1, 4), -1, **INT32), num_nodes
    ),
    "topk_logprobs": lambda k=2: sk.topk_logprobs(PROBS, k),
    "tree_attention": lambda **given: sk.tree_attention(
        QUERY, KEY, KEY, LAYOUT.ancestors, LENGTHS, **{**ANCHORED, **given}
    ),
    "unpack_ancestors": lambda T=3: sk.unpack_ancestors(LAYOUT.ancestors, T),
}  # fmt: skip
KINDS = {int: (2, "an integer"), float: (0.5, "a number")}


def scalars() -> list[tuple[str, str, type, bool]]:
    """Of every public op: its arguments that are numbers, their types, and whether None is one."""
    found = []
    for name, home in sk._HOMES.items():
        if home not in ("ops.tree", "ops.accept", "ops.gather", "ops.attention"):
            continue
        function = getattr(sk, name)
        hints = typing.get_type_hints(function)
        for argument in inspect.signature(function).parameters:
            kinds = typing.get_args(hints[argument]) or (hints[argument],)
            for kind in {int, float} & set(kinds):
                found.append((name, argument, kind, type(None) in kinds))
    return found


def test_the_table_is_whole() -> None:
    assert set(CALLS) == {name for name, *_ in scalars()}


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("name, argument, kind, may_be_none", scalars())
def test_the_wrong_kind_is_named(
    name: str, argument: str, kind: type, may_be_none: bool, checked: bool
) -> None:
    sound, word = KINDS[kind]
    wrong: list[Any] = ["2", True, [2], torch.tensor(sound)]
    wrong += [2.0, 2.5] if kind is int else [1j]
    with sk.checks(checked):
        for value in wrong if may_be_none else [*wrong, None]:
            got = type(value).__name__
            with pytest.raises(TypeError, match=f"^{name}: {argument} must be {word}, got {got}"):
                CALLS[name](**{argument: value})


@pytest.mark.parametrize("name, argument, kind, _", scalars())
def test_numbers_of_numpy_are_numbers(name: str, argument: str, kind: type, _: bool) -> None:
    sound = KINDS[kind][0]
    expected = CALLS[name](**{argument: sound})
    given = [np.int64(sound)] if kind is int else [np.float64(sound), np.float32(sound)]
    for value in given:
        result = CALLS[name](**{argument: value})
        leaves = torch.utils._pytree.tree_leaves
        for one, other in zip(leaves(result), leaves(expected), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["tree_attention", "attention_mass", "anchored_window_attention"])
def test_a_scale_is_finite(name: str) -> None:
    for scale in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"{name}: scale must be finite, got {scale}"):
            CALLS[name](scale=scale)


@pytest.mark.slow
def test_symbolic_numbers_compile_once() -> None:
    def step(probs: torch.Tensor, k: int) -> tuple[torch.Tensor, ...]:
        values, _ = sk.topk_logprobs(probs, k)
        attended = sk.tree_attention(QUERY, KEY, KEY, LAYOUT.ancestors, LENGTHS, scale=0.5)
        return values, attended, sk.accept_tree(TOKENS, LAYOUT, TOKENS, k).path

    compiles_once(step, [lambda k=k: (PROBS.clone(), k) for k in (4, 2, 3)])
