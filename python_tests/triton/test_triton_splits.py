"""How the whole tiles of a prefix are shared out among the splits of the tree kernel, and what its
compiler is told."""

from __future__ import annotations

import pytest
import torch
from interpreter import DEVICES, interpreted

from bench import plans
from sparrow_kernels.ops.attention.triton import configurations

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
spans = pytest.importorskip("sparrow_kernels.ops.attention.triton.tree_spans")
shipped = pytest.importorskip("sparrow_kernels.ops.attention.triton.shipped")
tree_launch = pytest.importorskip("sparrow_kernels.ops.attention.triton.tree_launch")

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


@interpreted
@pytest.mark.parametrize(
    ("more", "configuration", "most"),
    [("pages", (16, 0, 64, 32, 4, 4, 2), 255), (None, (16, 0, 64, 32, 4, 4, 2), None),
     ("pages", (64, 0, 64, 32, 4, 4, 1), None), (None, (64, 0, 64, 32, 2, 4, 4), 240)],
)  # fmt: skip
def test_a_call_is_compiled_as_its_kernel_was_read_ahead(
    more: str | None,
    configuration: tuple[int, ...],
    most: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the limit these spill, which nobody would see at run time."""
    chosen = configurations.Configuration(*configuration)
    launched = []
    monkeypatch.setattr(tree_launch, "plan", lambda shape: tree_launch.Plan(chosen, 1))
    monkeypatch.setattr(tree_launch, "launch", lambda *call: launched.append(call[3]()[2]))
    keys = torch.zeros(4, 1, 16, 128, dtype=torch.bfloat16)
    words, lengths = torch.ones(1, 1, 1, dtype=torch.int64), torch.ones(1, dtype=torch.int32)
    table = torch.zeros(1, 4, dtype=torch.int32) if more else None
    query = torch.zeros(1, 7, 1, 128, dtype=torch.bfloat16)
    tree_launch.tree_attention(query, keys, keys, words, lengths, *[None] * 6, 1.0, None, table)
    usual = {"num_warps": chosen.num_warps, "num_stages": chosen.num_stages}
    assert launched == [usual if most is None else usual | {"maxnreg": most}]
    assert shipped._tree("bf16", 128, False, chosen, 90, more).most_registers == most


@pytest.mark.parametrize(("batch", "heads"), [(65_536, 1), (1, 65_536)])
def test_more_than_a_grid_has_room_for_is_refused(batch: int, heads: int) -> None:
    cache = torch.zeros(batch, heads, 1, 16)
    words, lengths = torch.ones(batch, 1, 1, dtype=torch.int64), torch.zeros(batch).int()
    said = f"{batch:,} requests, {heads:,} KV heads: a GPU takes 65,535 a call"
    with pytest.raises(ValueError, match=said):
        tree_launch.tree_attention(cache, cache, cache, words, lengths, *[None] * 6, 1.0, None)
