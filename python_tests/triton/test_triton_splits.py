"""How the whole tiles of a prefix are shared out among the splits of the tree kernel."""

from __future__ import annotations

import pytest
import torch
from interpreter import DEVICES

from bench import plans
from sparrow_kernels.ops.attention.triton import configurations

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
spans = pytest.importorskip("sparrow_kernels.ops.attention.triton.tree_spans")

tiles_of_split = spans.tiles_of_split
TILES = (0, 1, 2, 5, 6, 7, 8, 23, 24, 25, 100, 400, 25_601, 2**26)
SPLITS = (1, 2, 3, 4, 7, 8, 17, 31, 32, 64)


@triton.jit(do_not_specialize=["tiles", "num_splits"])
def shares_kernel(out_ptr, tiles, num_splits):
    split = tl.minimum(tl.arange(0, 64), num_splits - 1)
    first, end = tiles_of_split(tiles, split, num_splits)
    place = 2 * tl.arange(0, 64)
    tl.store(out_ptr + place, first)
    tl.store(out_ptr + place + 1, end)


def shares(tiles: int, num_splits: int, device: str) -> list[tuple[int, int]]:
    out = torch.zeros(64, 2, dtype=torch.int32, device=device)
    shares_kernel[(1,)](out, tiles, num_splits)
    return [(first, end) for first, end in out[:num_splits].tolist()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_splits", SPLITS)
def test_each_tile_has_one_split_and_the_trees_has_fewer(num_splits: int, device: str) -> None:
    tile = configurations.Configuration(64, 0, 64, 32, 4, 4, 1)
    for tiles in TILES:
        found = shares(tiles, num_splits, device)
        assert [first for first, _ in found] == [0, *(end for _, end in found[:-1])]
        assert found[-1][1] == tiles
        counts = [end - first for first, end in found]
        assert counts[0] == max(
            (tiles + configurations.TREE_TILES) // num_splits - configurations.TREE_TILES, 0
        )
        assert max(counts[1:], default=0) - min(counts[1:], default=0) <= 1
        planned = [count for count, _ in plans.shared_evenly(64 * tiles, 1, tile, num_splits)]
        assert sorted(counts) == sorted(planned)
