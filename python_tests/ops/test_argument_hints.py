"""Mistakes that people make: the message is about the argument they got wrong."""

from __future__ import annotations

import re

import pytest
import torch

import sparrow_kernels as sk
from sparrow_kernels.ops import native

WITH_NATIVE = [] if native.unavailable() else ["native"]
LAYOUT = sk.build_tree(torch.tensor([[-1, 0, 0, 1, 1]], dtype=torch.int32))
LENGTHS = torch.tensor([4], dtype=torch.int32)
QUERY = torch.randn(1, 4, 5, 8)
KEY, VALUE = torch.randn(2, 1, 2, 16, 8).unbind()
MASK = torch.rand(1, 9) < 0.5
ROWS = torch.randn(1, 2, 9, 8)
TOKENS, TARGETS = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[2, 4, 0, 0, 1]])


def swapped(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(1, 2)


def tree(query=QUERY, key=KEY, value=VALUE, ancestors=LAYOUT.ancestors) -> torch.Tensor:
    return sk.tree_attention(query, key, value, ancestors, LENGTHS)


def window(query=ROWS, key=ROWS, value=ROWS) -> torch.Tensor:
    return sk.anchored_window_attention(query, key, value, MASK, window=2)


MISTAKES = {
    "a layout for its words": (
        lambda: tree(ancestors=LAYOUT),
        "tree_attention: ancestors must be a tensor [B, T, W], got TreeLayout (pass its field: "
        ".ancestors)",
    ),
    "a mask for words": (
        lambda: tree(ancestors=sk.dense_tree_mask(LAYOUT, LENGTHS, 16)),
        "tree_attention: ancestors must be int64, got bool (pack_ancestors makes 64-bit words",
    ),
    "a layout to unpack": (lambda: sk.unpack_ancestors(LAYOUT, 5), ".ancestors)"),
    "queries after nodes": (
        lambda: tree(swapped(QUERY)),
        "tree_attention: query must be [B, Hq, T, D] = [1, 4, 5, 8], got [1, 5, 4, 8] (heads and"
        " rows look swapped: pass query.transpose(1, 2))",
    ),
    "all of it after nodes": (
        lambda: tree(swapped(QUERY), swapped(KEY), swapped(VALUE)),
        "tree_attention: query must be [B, Hq, T, D] = [1, 4, 5, 8]",
    ),
    "a cache after slots": (
        lambda: tree(QUERY, swapped(KEY), swapped(VALUE)),
        "tree_attention: key must be [B, Hkv, N, D] = [1, 2, 16, 8]",
    ),
    "a sequence before heads": (
        lambda: window(swapped(ROWS), swapped(ROWS), swapped(ROWS)),
        "anchored_window_attention: key must be [B, Hkv, S, D] = [1, 2, 9, 8]",
    ),
    "nothing to gather": (
        lambda: sk.gather_hidden([], torch.zeros(1, 2, dtype=torch.int32)),
        "gather_hidden: states must be at least one layer, got none",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_message_names_the_mistake(name: str) -> None:
    call, message = MISTAKES[name]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()


def test_words_that_do_not_fit_a_query_with_as_many_heads_as_slots() -> None:
    """Nothing is called swapped where the shapes fit."""
    keys = torch.randn(1, 5, 16, 8)
    assert tree(torch.randn(1, 5, 5, 8), keys, keys).shape == (1, 5, 5, 8)
    wide = torch.randn(1, 9, 5, 8)
    assert window(wide, torch.randn(1, 9, 9, 8), torch.randn(1, 9, 9, 8)).shape == wide.shape


@pytest.mark.parametrize("backend", [*WITH_NATIVE, "reference"])
def test_a_commit_without_states_gives_none(backend: str) -> None:
    accepted = sk.accept_tree(TOKENS, LAYOUT, TARGETS, 3)
    with sk.backend(backend):
        results = []
        for states in ([], [torch.randn(1, 5, 6)]):
            keys, values, lengths = [KEY.clone()], [VALUE.clone()], LENGTHS.clone()
            hidden = sk.commit_path_(accepted, keys, values, states, lengths)
            assert hidden.shape == (1, 3, 6 * len(states))
            results.append((keys[0], values[0], lengths))
            keys, values, lengths = [KEY.clone()], [VALUE.clone()], LENGTHS.clone()
            both = sk.commit_tree_(TOKENS, LAYOUT, TARGETS, keys, values, states, lengths, 3)
            assert both[1].shape == hidden.shape and torch.equal(both[0].path, accepted.path)
            results.append((keys[0], values[0], lengths))
    assert results[0][2].tolist() == [7]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("enabled", ["off", 0, None])
def test_checks_are_on_or_off(enabled: object) -> None:
    """A word would be true, whatever it says."""
    with (
        pytest.raises(TypeError, match="checks: enabled must be True or False"),
        sk.checks(enabled),  # type: ignore[arg-type]
    ):
        pass
