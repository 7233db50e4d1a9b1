"""The schemas that compiled graphs hold: a new argument goes behind the old, with a default."""

from __future__ import annotations

import pytest

from sparrow_kernels.ops import registry
from sparrow_kernels.ops.attention.cache_ops import APPEND_CACHE, ROTATE_APPEND
from sparrow_kernels.ops.gather.ops import COMMIT_PATH, COMMIT_TREE, COMPACT_CACHE

_LAYOUT = "Tensor parent, Tensor depth, Tensor ancestors, Tensor first_child, Tensor next_sibling"
_LISTS = "Tensor(a!)[] keys, Tensor(b!)[] values"
_SCALES = "Tensor? key_scale=None, Tensor? value_scale=None"
_CACHES = "Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor prefix_lens"
SCHEMAS = {
    APPEND_CACHE: (
        f"(Tensor key, Tensor value, {_CACHES}, Tensor? block_table=None, {_SCALES}) -> ()"
    ),
    ROTATE_APPEND: (
        f"(Tensor query, Tensor key, Tensor value, Tensor cos, Tensor sin, {_CACHES}, "
        f"Tensor? block_table=None, {_SCALES}) -> Tensor"
    ),
    COMPACT_CACHE: (
        f"({_LISTS}, Tensor path, Tensor accept_length, Tensor prefix_lens, "
        "Tensor? block_table=None) -> ()"
    ),
    COMMIT_PATH: (
        f"(Tensor path, Tensor accept_length, {_LISTS}, Tensor[] states, Tensor(c!) prefix_lens, "
        "Tensor? block_table=None) -> Tensor"
    ),
    COMMIT_TREE: (
        f"(Tensor tokens, {_LAYOUT}, Tensor target_tokens, {_LISTS}, Tensor[] states, "
        "Tensor(c!) prefix_lens, SymInt max_path, Tensor? block_table=None) -> "
        "(Tensor path, Tensor accept_length, Tensor tokens, Tensor hidden)"
    ),
}


@pytest.mark.parametrize("op", SCHEMAS, ids=lambda op: op.name)
def test_schemas_of_the_cache_ops_stay(op: registry.Op) -> None:
    assert str(op.call._schema) == f"sparrow::{op.name}{SCHEMAS[op]}"
