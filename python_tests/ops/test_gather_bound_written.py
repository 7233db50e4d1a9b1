"""What commits of bound caches write is known to autograd, and is nobody else's."""

from __future__ import annotations

import pytest
import torch
from test_gather_bound import bound, made, tree

from sparrow_kernels.ops import env, native

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason="no native library")


def test_autograd_hears_of_lengths_and_results_that_are_written() -> None:
    given, weight = bound(made()), torch.ones(2, requires_grad=True)
    product = weight * given["prefix_lens"]
    out = tree(given)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
    before = [each._version for each in (*out[0], out[1])]
    tree(given, out=out)
    assert all(each._version > old for each, old in zip((*out[0], out[1]), before, strict=True))


def test_a_layer_that_was_set_onto_another_is_refused_where_values_are_checked() -> None:
    given = made()
    given["keys"] = [each.clone() for each in given["keys"]]
    given = bound(given)
    with env.checks(True):
        given["values"][0].set_(given["keys"][0])
        with pytest.raises(ValueError, match=r"values\[0\] must be in memory of its own"):
            tree(given)
        given["values"][0].set_(torch.randn_like(given["keys"][0]))
        tree(given)
