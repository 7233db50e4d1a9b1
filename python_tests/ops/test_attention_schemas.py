"""The schemas of attention are frozen: what is there stays, what comes is last, with a default."""

import inspect

import pytest
import torch
from test_attention_dispatch import ANCHORED, PLAIN, op_arguments

import sparrow_kernels

TREE = (
    "Tensor query, Tensor key, Tensor value, Tensor ancestors, Tensor prefix_lens, "
    "Tensor? prefix_starts, Tensor? anchor_slots, Tensor? anchor_count, Tensor? anchor_rank, "
    "SymInt? window, Tensor? depth, float scale, SymInt? num_splits"
)
LATER = (
    "Tensor? block_table=None, Tensor? key_bias=None, Tensor? key_scale=None,"
    " Tensor? value_scale=None"
)
FROZEN = {
    "tree_attention": f"({TREE}, {LATER}) -> (Tensor out, Tensor lse)",
    "tree_attention_out": f"({TREE}, Tensor(a!) out, Tensor(b!)? lse, {LATER}) -> ()",
    "attention_mass": "(Tensor query, Tensor key, Tensor prefix_lens, float scale,"
    " Tensor? block_table=None, Tensor? lse=None) -> Tensor",
    "merge_attention": "(Tensor[] outs, Tensor[] lses) -> (Tensor out, Tensor lse)",
    "anchor_index": "(Tensor anchor_mask, SymInt max_anchors)"
    " -> (Tensor slots, Tensor count, Tensor rank)",
}
PUBLIC = {
    "tree_attention": "query key value ancestors prefix_lens prefix_starts anchors window depth"
    " scale return_lse num_splits out block_table key_bias key_scale value_scale",
    "attention_mass": "query key prefix_lens scale block_table lse sum_heads",
    "merge_attention": "outs lses",
    "anchor_index": "anchor_mask max_anchors",
}


@pytest.mark.parametrize("name", FROZEN)
def test_no_schema_changes(name):
    getattr(sparrow_kernels, name.removesuffix("_out"))  # defines it
    schema = str(getattr(torch.ops.sparrow, name).default._schema)
    assert schema == f"sparrow::{name}{FROZEN[name]}"


@pytest.mark.parametrize("name", PUBLIC)
def test_no_public_argument_moves(name):
    assert " ".join(inspect.signature(getattr(sparrow_kernels, name)).parameters) == PUBLIC[name]


@pytest.mark.parametrize("case", [PLAIN, ANCHORED], ids=["plain", "anchored"])
def test_calls_from_before_the_later_arguments(case):
    """By position, to the op itself; with the later ones named as none, to the same bits."""
    arguments = op_arguments(case)
    before = torch.ops.sparrow.tree_attention(*arguments)
    named = torch.ops.sparrow.tree_attention(*arguments, block_table=None, key_bias=None)
    out, lse = torch.empty_like(before[0]), torch.empty_like(before[1])
    torch.ops.sparrow.tree_attention_out(*arguments, out, lse)
    for one, other, written in zip(before, named, (out, lse), strict=True):
        assert torch.equal(one, other) and torch.equal(one, written)
