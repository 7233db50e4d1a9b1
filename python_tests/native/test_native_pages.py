"""The native cache ops on pages: the bits of contiguous caches, and no table leads outside."""

from __future__ import annotations

import random

import torch
from emulation import Library
from page_cases import CALLS, Drawn
from tree_oracle import int32


def test_pages_hold_what_contiguous_caches_hold(library: Library) -> None:
    """Shuffled pages of 1 to 256 slots, a shared prefix, lengths a layer, poison around."""
    for call in CALLS:
        for seed in range(16 if library.name == "emulated" else 40):
            call(library.ops, Drawn(seed))


WILD = (-1, 6, 2**31 - 1, -(2**31))


def test_wild_tables_touch_no_other_page(library: Library) -> None:
    """Six pages of four slots in a slab of guards; a table may name pages 0 to 3, and does not."""
    source = random.Random(1)
    for seed in range(24 if library.name == "emulated" else 200):
        slabs = [torch.full((10, 2, 4, 4), 7.0) for _ in range(2)]
        caches = [slab[2:8] for slab in slabs]
        for cache in caches:
            cache[:4] = 1.0
        entries = (*WILD, *range(4))
        table = int32([[source.choice(entries) for _ in range(3)] for _ in range(2)])
        lens = int32([source.choice([*WILD, 0, 5, 11, 12]) for _ in range(2)])
        path, length = int32([[0, 2, source.choice([3, *WILD])]] * 2), int32([2, seed % 4])
        row, cos, sin = torch.ones(2, 2, 3, 4), torch.ones(2, 3, 4), torch.zeros(2, 3, 4)
        library.ops.append_cache_(row, row, *caches, lens, table)
        library.ops.rotate_append_(row, row, row, cos, sin, *caches, lens, table)
        library.ops.compact_cache_([caches[0]], [caches[1]], path, length, lens, table)
        before, states = lens.clone(), [torch.ones(2, 4, 4)]
        library.ops.commit_path_(path, length, [caches[0]], [caches[1]], states, lens, table)
        moved = (before.long() + length.clamp(max=2) + 1).clamp(max=12)
        assert torch.equal(lens.long(), moved)
        for slab in slabs:
            assert bool((slab[2:6] == 1).all()) and bool((slab[:2] == 7).all())
            assert bool((slab[6:] == 7).all())


def test_lengths_of_a_layer_are_each_advanced(library: Library) -> None:
    """Also where more layers than a launch takes share one call, and a request is idle."""
    layers = 140
    keys = [torch.arange(2 * 12.0).reshape(2, 1, 12, 1) + 100 * layer for layer in range(layers)]
    values = [key + 0.5 for key in keys]
    lens = torch.arange(layers)[:, None].remainder(7).expand(-1, 2).int().contiguous()
    before, expected = lens.clone(), [cache.clone() for cache in (*keys, *values)]
    library.ops.commit_path_(
        int32([[0, 2, 4], [0, 1, -1]]), int32([2, -1]), keys, values, [torch.ones(2, 5, 3)], lens
    )
    assert torch.equal(lens[:, 0], before[:, 0] + 3) and torch.equal(lens[:, 1], before[:, 1])
    for n, (cache, old) in enumerate(zip((*keys, *values), expected, strict=True)):
        first = n % layers % 7
        old[0, :, first + 1] = old[0, :, first + 2].clone()
        old[0, :, first + 2] = old[0, :, first + 4].clone()
        assert torch.equal(cache, old), n
