"""Defines the gathering and commit ops: schema, fake, value check, backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sparrow_kernels.ops import native, registry
from sparrow_kernels.ops.accept.ops import LAYOUT, fake_acceptance
from sparrow_kernels.ops.gather import checks, derivative, reference


def _fake_gather_hidden(states: Sequence[Tensor], index: Tensor) -> Tensor:
    batch, rows = index.shape
    return states[0].new_empty((batch, rows, len(states) * states[0].shape[2]))


def _fake_commit_path_(
    path: Tensor,
    accept_length: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    states: Sequence[Tensor],
    prefix_lens: Tensor,
    block_table: Tensor | None = None,
) -> Tensor:
    return _fake_gather_hidden(states, path)


def _fake_commit_tree_(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens, states, max_path = args[0], args[9], args[11]
    accepted = fake_acceptance(tokens, max_path)
    return *accepted, _fake_gather_hidden(states, accepted[0])


GATHER_HIDDEN = registry.define(
    "gather_hidden(Tensor[] states, Tensor index) -> Tensor",
    fake=_fake_gather_hidden,
    check=checks.gather_hidden,
)
GATHER_HIDDEN.implement("reference", reference.gather_hidden)
native.implement(GATHER_HIDDEN)
GATHER_HIDDEN.differentiate(derivative.setup_context, derivative.backward, derivative.jvp)

GATHER_HIDDEN_OUT = registry.define(
    "gather_hidden_out(Tensor[] states, Tensor index, Tensor(a!) out) -> ()",
    fake=lambda states, index, out: None,
    check=checks.gather_hidden,
    without_grad="leave out= away where it is differentiated, or call it under torch.no_grad()",
)
GATHER_HIDDEN_OUT.implement("reference", reference.gather_hidden_out)
native.implement(GATHER_HIDDEN_OUT)

COMPACT_CACHE = registry.define(
    "compact_cache_(Tensor(a!)[] keys, Tensor(b!)[] values, Tensor path, Tensor accept_length,"
    " Tensor prefix_lens, Tensor? block_table=None) -> ()",
    fake=lambda *_: None,
    check=checks.compact_cache_,
)
COMPACT_CACHE.implement("reference", reference.compact_cache_)
native.implement(COMPACT_CACHE)

COMMIT_PATH = registry.define(
    "commit_path_(Tensor path, Tensor accept_length, Tensor(a!)[] keys, Tensor(b!)[] values,"
    " Tensor[] states, Tensor(c!) prefix_lens, Tensor? block_table=None) -> Tensor",
    fake=_fake_commit_path_,
    check=checks.commit_path_,
)
COMMIT_PATH.implement("reference", reference.commit_path_)
native.implement(COMMIT_PATH)

COMMIT_TREE = registry.define(
    f"commit_tree_(Tensor tokens, {LAYOUT}, Tensor target_tokens, Tensor(a!)[] keys,"
    " Tensor(b!)[] values, Tensor[] states, Tensor(c!) prefix_lens, SymInt max_path,"
    " Tensor? block_table=None)"
    " -> (Tensor path, Tensor accept_length, Tensor tokens, Tensor hidden)",
    fake=_fake_commit_tree_,
    check=checks.commit_tree_,
)
COMMIT_TREE.implement("reference", reference.commit_tree_)
native.implement(COMMIT_TREE)
