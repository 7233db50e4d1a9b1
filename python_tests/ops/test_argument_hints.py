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
NEW, ANGLES, PAGES = torch.randn(1, 2, 5, 8), torch.ones(1, 5, 8), torch.randn(3, 2, 16, 8)
TOKENS, TARGETS = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[2, 4, 0, 0, 1]])


def swapped(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(1, 2)


def tree(query=QUERY, key=KEY, value=VALUE, ancestors=LAYOUT.ancestors) -> torch.Tensor:
    return sk.tree_attention(query, key, value, ancestors, LENGTHS)


def window(query=ROWS, key=ROWS, value=ROWS) -> torch.Tensor:
    return sk.anchored_window_attention(query, key, value, MASK, window=2)


def append(key=NEW, value=NEW, key_cache=KEY, value_cache=VALUE) -> None:
    sk.append_cache_(key, value, key_cache, value_cache, LENGTHS)


def rotate(cos) -> None:
    sk.rotate_append_(QUERY, NEW, NEW, cos, ANGLES, KEY.clone(), VALUE.clone(), LENGTHS)


def commit(keys, values) -> None:
    sk.commit_tree_(TOKENS, LAYOUT, TARGETS, keys, values, [], LENGTHS.clone(), 3)


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
    "rows and cache swapped": (
        lambda: append(KEY, VALUE, NEW, NEW.clone()),
        "append_cache_: key must be of at most 5 rows, the slots of key_cache, got 16 (are rows and"
        " cache in each other's place?)",
    ),
    "half of the angles": (
        lambda: rotate(ANGLES[..., :4]),
        "rotate_append_: cos must be [B, T, D] = [1, 5, 8], got [1, 5, 4] (both halves, as",
    ),
    "angles of half precision": (
        lambda: rotate(ANGLES.half()),
        "rotate_append_: cos must be float32, got float16",
    ),
    "rows that are sparse": (
        lambda: window(key=ROWS.to_sparse()),
        "anchored_window_attention: key must be a dense tensor, got sparse_coo (call .to_dense())",
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
    "rows after heads, to append": (
        lambda: append(key=swapped(NEW), value=swapped(NEW)),
        "append_cache_: key must be [B, Hkv, T, D] = [1, 2, 5, 8], got [1, 5, 2, 8] (heads and rows"
        " look swapped, as those of value may be: pass key.transpose(1, 2))",
    ),
    "a cache to append to after slots": (
        lambda: append(key_cache=swapped(KEY), value_cache=swapped(VALUE)),
        "append_cache_: key_cache must be [B, Hkv, N, D] = [1, 2, 16, 8], got [1, 16, 2, 8]",
    ),
    "all of an append after slots": (
        lambda: append(swapped(NEW), swapped(NEW), swapped(KEY), swapped(VALUE)),
        "append_cache_: key must be [B, Hkv, T, D] = [1, 2, 5, 8]",
    ),
    "queries after nodes, to rotate": (
        lambda: sk.rotate_append_(
            swapped(QUERY), NEW, NEW, ANGLES, ANGLES, KEY.clone(), VALUE.clone(), LENGTHS
        ),
        "rotate_append_: query must be [B, Hq, T, D] = [1, 4, 5, 8], got [1, 5, 4, 8]",
    ),
    "a cache for its mass after slots": (
        lambda: sk.attention_mass(QUERY, swapped(KEY), LENGTHS),
        "attention_mass: key must be [B, Hkv, N, D] = [1, 2, 16, 8]",
    ),
    "lengths of 64 bits": (
        lambda: sk.tree_attention(QUERY, KEY, VALUE, LAYOUT.ancestors, LENGTHS.long()),
        "tree_attention: prefix_lens must be int32, got int64 (call .int() once, outside the step,"
        " and keep the copy",
    ),
    "tokens of 32 bits": (
        lambda: sk.accept_tree(TOKENS.int(), LAYOUT, TARGETS, 3),
        "accept_tree: tokens must be int64, got int32 (call .long() once",
    ),
    "words of 32 bits": (
        lambda: tree(ancestors=LAYOUT.ancestors.int()),
        "tree_attention: ancestors must be int64, got int32 (words have 64 bits",
    ),
    "pages to attend to without a table": (
        lambda: tree(key=PAGES, value=PAGES),
        "tree_attention: key must be [B, Hkv, N, D] = [1, Hkv, N, 8], got [3, 2, 16, 8] (a cache"
        " in pages comes with its block_table=)",
    ),
    "pages to append to without a table": (
        lambda: append(key_cache=PAGES.clone(), value_cache=PAGES.clone()),
        "append_cache_: key_cache must be [B, Hkv, N, D] = [1, 2, N, 8], got [3, 2, 16, 8] (a"
        " cache in pages",
    ),
    "pages to commit to without a table": (
        lambda: commit([PAGES.clone()], [PAGES.clone()]),
        "commit_tree_: keys[0] must be [B, Hkv, N, D] = [1, Hkv, N, D], got [3, 2, 16, 8] (a cache"
        " in pages",
    ),
    "layers in one tensor": (
        lambda: commit(KEY[None], VALUE[None]),
        "commit_tree_: keys must be a sequence of tensors, one a layer, got Tensor (pass list(keys",
    ),
    "a layer for its list": (
        lambda: commit([KEY.clone()], VALUE),
        "commit_tree_: values must be a sequence of tensors, one a layer, got Tensor (pass [values",
    ),
    "states in one tensor": (
        lambda: sk.gather_hidden(torch.ones(2, 1, 5, 6), torch.zeros(1, 2, dtype=torch.int32)),
        "gather_hidden: states must be a sequence of tensors, one a layer, got Tensor (pass list(",
    ),
    "rows of another dtype than their caches": (
        lambda: append(NEW.bfloat16(), NEW.bfloat16()),
        "append_cache_: key must be float32, as key_cache and value_cache, got bfloat16 (call"
        " .to(torch.float32))",
    ),
    "a query of another dtype than key and value": (
        lambda: tree(QUERY.bfloat16()),
        "tree_attention: query must be float32, as key and value, got bfloat16",
    ),
    "a key of another dtype than the others": (
        lambda: tree(key=KEY.bfloat16()),
        "tree_attention: key must be float32 or float8_e4m3fn, got bfloat16",
    ),
    "a sequence's query of another dtype": (
        lambda: window(query=ROWS.half()),
        "anchored_window_attention: query must be float32, as key and value, got float16",
    ),
    "a derivative by way of out": (
        lambda: sk.gather_hidden(
            [torch.ones(1, 5, 6, requires_grad=True)],
            torch.zeros(1, 2, dtype=torch.int32),
            out=torch.ones(1, 2, 6),
        ),
        "gather_hidden: states must not require grad (the op has no derivative: leave out= away"
        " where it is differentiated",
    ),
    "nothing to gather": (
        lambda: sk.gather_hidden([], torch.zeros(1, 2, dtype=torch.int32)),
        "gather_hidden: states must be at least one layer, got none",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_message_names_the_mistake(name: str) -> None:
    call, message = MISTAKES[name]
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=re.escape(message)):
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
