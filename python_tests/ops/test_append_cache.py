"""append_cache_ and rotate_append_ on every backend a CPU has."""

import pytest
import torch
from dispatch import compiles_once, opcheck

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import append_cache_, rotate_append_
from sparrow_kernels.ops.attention.cache_ops import APPEND_CACHE, ROTATE_APPEND
from sparrow_kernels.testing import assert_close, guard_rows, is_poison, poison

BACKENDS = [name for name in ("reference", "native") if APPEND_CACHE.unavailable(name) is None]


def drawn(batch=2, heads=4, kv_heads=2, rows=3, head_dim=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows)

    def rand(*shape):
        return torch.randn(shape, generator=generator)

    angle = rand(batch, rows, head_dim)
    return (
        rand(batch, heads, rows, head_dim).to(dtype),
        rand(batch, kv_heads, rows, head_dim).to(dtype),
        rand(batch, kv_heads, rows, head_dim).to(dtype),
        angle.cos(),
        angle.sin(),
    )


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def rotated(rows, cos, sin):
    """One pair of elements at a time, in float64."""
    half = rows.shape[-1] // 2
    rows, cos, sin = rows.double(), cos.double(), sin.double()
    out = torch.empty_like(rows)
    for j in range(half):
        low, high = rows[..., j], rows[..., j + half]
        out[..., j] = low * cos[:, None, :, j] - high * sin[:, None, :, j]
        out[..., j + half] = high * cos[:, None, :, j + half] + low * sin[:, None, :, j + half]
    return out


def holds(cache, new, lengths):
    """Row i of request b lies at slot length + i, everything else is still poison."""
    expected = poison(*cache.shape, dtype=cache.dtype)
    for b, length in enumerate(lengths):
        for i in range(new.shape[2]):
            if 0 <= length + i < cache.shape[2]:
                expected[b, :, length + i] = new[b, :, i]
    return torch.equal(is_poison(expected), is_poison(cache)) and torch.equal(
        expected.nan_to_num(), cache.nan_to_num()
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rows, lengths", [(1, (0, 9)), (3, (5, 7)), (10, (0, 0)), (0, (3, 10))])
def test_append(rows, lengths, dtype, backend):
    _, key, value, *_ = drawn(rows=rows, dtype=dtype)
    with env.backend(backend), guard_rows() as guards:
        caches = [guards.empty(2, 2, 10, 8, dtype=dtype, name=name) for name in ("keys", "values")]
        append_cache_(key, value, *caches, int32(*lengths))
        assert holds(caches[0], key, lengths) and holds(caches[1], value, lengths)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [(8, 0), (-1, 3), (-3, 11), (2**31 - 1, -(2**31))])
def test_rows_that_do_not_fit(lengths, backend):
    query, key, value, cos, sin = drawn()
    with env.backend(backend), guard_rows() as guards:
        caches = [guards.empty(2, 2, 10, 8) for _ in range(2)]
        with pytest.raises(ValueError, match="append_cache_: prefix_lens must be 0..7"):
            append_cache_(key, value, *caches, int32(*lengths))
        with pytest.raises(ValueError, match="rotate_append_: prefix_lens must be 0..7"):
            rotate_append_(query, key, value, cos, sin, *caches, int32(*lengths))
        assert all(bool(is_poison(cache).all()) for cache in caches)
        with env.checks(False):
            append_cache_(key, value, *caches, int32(*lengths))
            assert holds(caches[0], key, lengths) and holds(caches[1], value, lengths)
            caches[0].fill_(float("nan"))
            out = rotate_append_(query, key, value, cos, sin, *caches, int32(*lengths))
            assert_close(out, rotated(query, cos, sin))
            turned = rotated(key, cos, sin)
            written = ~is_poison(caches[0])
            expected = poison(2, 2, 10, 8, dtype=torch.float64)
            for b, length in enumerate(lengths):
                for i in range(3):
                    if 0 <= length + i < 10:
                        expected[b, :, length + i] = turned[b, :, i]
            assert torch.equal(written, ~is_poison(expected))
            assert_close(caches[0], expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("float_angles", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("head_dim", [2, 16, 72, 128])
def test_rotate(head_dim, dtype, float_angles, backend):
    query, key, value, cos, sin = drawn(head_dim=head_dim, dtype=dtype, heads=7, kv_heads=1)
    if not float_angles:
        cos, sin = cos.to(dtype), sin.to(dtype)
    caches = [poison(2, 1, 10, head_dim, dtype=dtype) for _ in range(2)]
    with env.backend(backend):
        out = rotate_append_(query, key, value, cos, sin, *caches, int32(2, 7))
    assert out.is_contiguous()
    assert_close(out, rotated(query, cos, sin), name="query")
    turned = rotated(key, cos, sin)
    for b, length in enumerate((2, 7)):
        assert_close(caches[0][b, :, length : length + 3], turned[b], name="key")
    assert holds(caches[1], value, (2, 7))
    assert int((~is_poison(caches[0])).sum()) == turned.numel()


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_inputs(backend):
    query, key, value, cos, sin = drawn()
    slab = poison(3, 2, 2, 12, 20)
    caches = slab[1, :, :, 1:11, 3:11], slab[2, :, :, :10, :8]
    with env.backend(backend):
        out = rotate_append_(
            query.transpose(1, 2).contiguous().transpose(1, 2),
            key.transpose(1, 2).contiguous().transpose(1, 2),
            torch.cat((value, value), -1)[..., 8:],
            cos[:1].expand(2, -1, -1),
            sin[:1].expand(2, -1, -1),
            *caches,
            int32(2, 7),
        )
    angles = cos[:1].expand(2, -1, -1), sin[:1].expand(2, -1, -1)
    assert_close(out, rotated(query, *angles))
    assert holds(caches[1], value, (2, 7))
    assert int((~is_poison(slab)).sum()) == key.numel() + value.numel()


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend):
    query, key, value, cos, sin = (tensor[:0] for tensor in drawn())
    caches = [torch.empty(0, 2, 10, 8) for _ in range(2)]
    with env.backend(backend):
        append_cache_(key, value, *caches, int32())
        assert rotate_append_(query, key, value, cos, sin, *caches, int32()).shape == query.shape


BAD = {
    "a head too few": (1, lambda t: t[:, :1], ValueError),
    "a rank too few": (2, lambda t: t[0], ValueError),
    "another dtype": (0, lambda t: t.half(), TypeError),
    "values of another dtype": (2, lambda t: t.half(), TypeError),
    "no tensor": (1, lambda t: None, TypeError),
    "angles for other rows": (3, lambda t: t[:, 1:], ValueError),
    "angles of another dtype": (4, lambda t: t.half(), TypeError),
    "query of other rows": (0, lambda t: t[:, :, 1:], ValueError),
    "rows not contiguous": (0, lambda t: t.mT.contiguous().mT, ValueError),
    "a cache of another dtype": (5, lambda t: t.half(), TypeError),
    "a cache of another head dim": (6, lambda t: t[..., 1:], ValueError),
    "caches of different capacity": (6, lambda t: t[:, :, 1:], ValueError),
    "lengths of 64 bits": (7, lambda t: t.long(), TypeError),
    "lengths apart": (7, lambda t: t.repeat_interleave(2)[::2], ValueError),
    "a length too few": (7, lambda t: t[1:], ValueError),
}


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name, checked):
    position, spoil, error = BAD[name]
    caches = [poison(2, 2, 10, 8) for _ in range(2)]
    arguments = [*drawn(), *caches, int32(2, 7)]
    arguments[position] = spoil(arguments[position])
    with env.checks(checked):
        with pytest.raises(error, match="rotate_append_: "):
            rotate_append_(*arguments)
        if position not in (0, 3, 4):
            with pytest.raises(error, match="append_cache_: "):
                append_cache_(*arguments[1:3], *arguments[5:])
    assert all(bool(is_poison(cache).all()) for cache in caches)


def test_an_odd_head_dim_is_refused():
    query, key, value, cos, sin = drawn(head_dim=7)
    with pytest.raises(ValueError, match="even head dim"):
        rotate_append_(query, key, value, cos, sin, *torch.empty(2, 2, 2, 10, 7), int32(0, 0))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_are_ops(backend):
    query, key, value, cos, sin = drawn()
    caches = [torch.zeros(2, 2, 10, 8) for _ in range(2)]
    opcheck(APPEND_CACHE, backend, key, value, *caches, int32(2, 7))
    opcheck(ROTATE_APPEND, backend, query, key, value, cos, sin, *caches, int32(2, 7))

    def calls(rows):
        return lambda: (
            *drawn(rows=rows),
            torch.zeros(2, 2, 10, 8),
            torch.zeros(2, 2, 10, 8),
            int32(rows, 10 - rows),
        )

    def step(query, key, value, cos, sin, key_cache, value_cache, lengths):
        append_cache_(key, value, key_cache, value_cache, lengths)
        return rotate_append_(query, key, value, cos, sin, key_cache, value_cache, lengths)

    with env.backend(backend):
        compiles_once(step, [calls(3), calls(5)])
