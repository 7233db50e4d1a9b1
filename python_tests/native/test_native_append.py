"""The native append ops, called directly, against the rotation transformers makes."""

from __future__ import annotations

import pytest
import torch
from emulation import Library
from torch import Tensor
from tree_oracle import int32

POISON = 777.0


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `[B, heads, T, D]` as models write it, in the dtype of the arguments."""
    low, high = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-high, low], -1) * sin[:, None]


def guarded_cache(shape: tuple[int, int, int, int], dtype: torch.dtype, columns: int = 0) -> Tensor:
    """A cache inside a larger slab, full of poison: what is not written must stay so.

    Guard columns leave its rows without the alignment that wide accesses need.
    """
    batch, heads, capacity, head_dim = shape
    slab = torch.full((batch, heads, capacity + 4, head_dim + 2 * columns), POISON, dtype=dtype)
    return slab[:, :, 2:-2, columns : columns + head_dim]


def appended(cache: Tensor, fresh: Tensor, prefix_lens: list[int]) -> Tensor:
    expected = cache.clone()
    for b, prefix_len in enumerate(prefix_lens):
        for i in range(fresh.shape[2]):
            if 0 <= prefix_len + i < cache.shape[2]:
                expected[b, :, prefix_len + i] = fresh[b, :, i]
    return expected


def assert_guards_hold(cache: Tensor) -> None:
    slab = cache._base
    assert slab is not None
    cache.fill_(POISON)
    assert bool((slab == POISON).all())


LENGTHS = [[0, 3], [4, 2], [5, 8], [-1, 2**31 - 1], [-(2**31), 7]]


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("prefix_lens", LENGTHS, ids=str)
def test_append_cache(library: Library, dtype: torch.dtype, prefix_lens: list[int]) -> None:
    """Rows that end at the cache's end, run past it, or lie outside altogether."""
    dtype_poison = 77 if dtype == torch.int8 else POISON
    key = torch.randint(-50, 50, (2, 5, 3, 4)).to(dtype).transpose(1, 2)  # [B, Hkv, T, D]
    value = torch.randint(-50, 50, (2, 3, 5, 4)).to(dtype)
    slabs = [torch.full((2, 3, 12, 4), dtype_poison, dtype=dtype) for _ in range(2)]
    key_cache, value_cache = (slab[:, :, 2:10] for slab in slabs)
    expected = [appended(c, f, prefix_lens) for c, f in ((key_cache, key), (value_cache, value))]
    library.ops.append_cache_(key, value, key_cache, value_cache, int32(prefix_lens))
    assert torch.equal(key_cache, expected[0]) and torch.equal(value_cache, expected[1])
    for slab in slabs:
        assert bool(
            (slab[:, :, :2] == dtype_poison).all() and (slab[:, :, 10:] == dtype_poison).all()
        )


@pytest.mark.parametrize("prefix_lens", LENGTHS, ids=str)
@pytest.mark.parametrize(("head_dim", "columns"), [(2, 1), (16, 0), (34, 0), (128, 0), (128, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("angles_in_float", [True, False])
def test_rotate_append(
    library: Library,
    prefix_lens: list[int],
    head_dim: int,
    columns: int,
    dtype: torch.dtype,
    angles_in_float: bool,
) -> None:
    """The float32 rotation, rounded once: the same bits as torch computes them."""
    torch.manual_seed(head_dim)
    query = torch.randn(2, 5, 6, head_dim).to(dtype).transpose(1, 2)  # [B, Hq, T, D]
    key, value = torch.randn(2, 2, 5, head_dim).to(dtype), torch.randn(2, 2, 5, head_dim).to(dtype)
    angle = torch.rand(2, 5, head_dim) * 6
    cos, sin = angle.cos(), angle.sin()
    if not angles_in_float:
        cos, sin = cos.to(dtype), sin.to(dtype)
    key_cache, value_cache = (guarded_cache((2, 2, 8, head_dim), dtype, columns) for _ in range(2))
    turned = [rotated(x.float(), cos.float(), sin.float()).to(dtype) for x in (query, key)]
    expected_keys = appended(key_cache, turned[1], prefix_lens)
    expected_values = appended(value_cache, value, prefix_lens)
    got = library.ops.rotate_append_(
        query, key, value, cos, sin, key_cache, value_cache, int32(prefix_lens)
    )
    assert torch.equal(got, turned[0])
    assert torch.equal(key_cache, expected_keys)
    assert torch.equal(value_cache, expected_values)
    assert_guards_hold(key_cache)
    assert_guards_hold(value_cache)


@pytest.mark.parametrize(("offset", "width"), [(0, 16), (1, 16), (2, 16), (4, 16), (0, 13)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.float64])
def test_append_at_any_alignment(
    library: Library, dtype: torch.dtype, offset: int, width: int
) -> None:
    """Rows that begin `offset` elements into their storage; the rest of it is guard."""
    wide = (torch.arange(2 * 3 * 24) % 50).to(dtype).view(1, 2, 3, 24)
    fresh = wide[..., offset : offset + width]
    slabs = [torch.full((1, 2, 9, 24), 77, dtype=dtype) for _ in range(2)]
    caches = [slab[:, :, 1:8, offset : offset + width] for slab in slabs]
    expected = [slab.clone() for slab in slabs]
    for slab in expected:
        slab[:, :, 3:6, offset : offset + width] = fresh
    library.ops.append_cache_(fresh, fresh, *caches, int32([2]))
    assert torch.equal(slabs[0], expected[0]) and torch.equal(slabs[1], expected[1])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_is_converted_as_torch_does(library: Library, dtype: torch.dtype) -> None:
    """Every 16-bit pattern goes in; products of every size come out."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    query = patterns.view(1, 1, -1, 2)
    rows = query.shape[2]
    empty = torch.zeros(1, 1, rows, 2, dtype=dtype)
    for scale in (1.0, 1 / 3, 1e-3, 3e-5, 2.0**-14, 40.0):
        cos = torch.full((1, rows, 2), scale)
        got = library.ops.rotate_append_(
            query,
            empty,
            empty,
            cos,
            torch.zeros_like(cos),
            empty.clone(),
            empty.clone(),
            int32([0]),
        )
        wanted = rotated(query.float(), cos, torch.zeros_like(cos)).to(dtype)
        assert torch.equal(got.isnan(), wanted.isnan())
        assert torch.equal(got.nan_to_num(0.0), wanted.nan_to_num(0.0))


def test_angles_may_be_shared_by_the_batch(library: Library) -> None:
    query, cos = torch.randn(3, 1, 2, 4), torch.rand(1, 2, 4)
    empty, lens = torch.zeros(3, 1, 2, 4), int32([0] * 3)
    got = library.ops.rotate_append_(
        query,
        empty,
        empty,
        cos.expand(3, 2, 4),
        cos.expand(3, 2, 4),
        empty.clone(),
        empty.clone(),
        lens,
    )
    assert torch.equal(got, rotated(query, cos, cos))


def test_refusals_name_the_argument_and_write_nothing(library: Library) -> None:
    query, key = torch.ones(1, 2, 3, 4), torch.ones(1, 1, 3, 4)
    cache, angle, lens = torch.zeros(1, 1, 5, 4), torch.ones(1, 3, 4), int32([0])
    odd = [torch.ones(1, 1, 3, 3)] * 3 + [torch.ones(1, 3, 3)] * 2 + [torch.zeros(1, 1, 5, 3)] * 2
    cases = [
        ((query.double(), key, key, angle, angle, cache, cache, lens), "query must be Float or"),
        ((query, key.half(), key, angle, angle, cache, cache, lens), "key must be Float, got Half"),
        ((query, key, key, angle[:, :2], angle, cache, cache, lens), r"cos must be \[1, 3, 4\]"),
        ((query, key, key, angle, angle.double(), cache, cache, lens), "sin must be Float"),
        ((query, key, key, angle, angle, cache[..., :3], cache, lens), "key_cache must be"),
        ((query, key, key, angle, angle, cache, cache.half(), lens), "value_cache must be Float"),
        ((query, key, key, angle, angle, cache, cache, lens.long()), "prefix_lens must be Int"),
        ((*odd, lens), "the head dim of query must be even, got 3"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=f"rotate_append_: {message}"):
            library.ops.rotate_append_(*arguments)
    with pytest.raises(ValueError, match="append_cache_: value must be"):
        library.ops.append_cache_(key, key[:, :, :2], cache, cache, lens)
    assert not cache.any()
