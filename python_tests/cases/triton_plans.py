"""Small tiles for the Triton tree kernel, so that a test's few slots make several of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention.triton.configurations import Configuration

# Rows of the two subtiles, slots of a tile, slots of a masked tile; splits unless the call says.
WAYS = {
    "splits": ((32, 0, 16, 32), 2),
    "two subtiles": ((16, 16, 32, 16), 1),
}


@contextmanager
def planned(way: str) -> Iterator[None]:
    """Triton takes the calls inside, cut as `way` says."""
    pytest.importorskip("triton")
    from sparrow_kernels.ops.attention.triton import tree_launch

    sizes, splits = WAYS[way]
    configuration = Configuration(*sizes, num_warps=4, num_stages=2, resident=1)
    usual = tree_launch.plan
    tree_launch.plan = lambda shape: tree_launch.Plan(configuration, shape.num_splits or splits)
    try:
        with env.backend("triton"):
            yield
    finally:
        tree_launch.plan = usual
