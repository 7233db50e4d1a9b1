"""Float8 caches in the ops that write them: appends quantise, commits move bytes."""

import pytest
import torch
from dispatch import compiles_once, opcheck
from float8_cases import FLOAT8, stored

from sparrow_kernels import (
    Acceptance,
    append_cache_,
    bind_caches,
    build_tree,
    commit_path_,
    commit_tree_,
    compact_cache_,
    rotate_append_,
)
from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention.cache_ops import APPEND_CACHE, ROTATE_APPEND
from sparrow_kernels.ops.gather.ops import COMPACT_CACHE

BACKENDS = [name for name in ("reference", "native") if APPEND_CACHE.unavailable(name) is None]
SCALES = {
    "key_scale": torch.tensor([[0.01, 0.3], [2.0, 0.007]]),
    "value_scale": torch.tensor([[0.02, 0.05]]),
}
LAYOUT = build_tree(torch.tensor([[-1, 0, 1, 1]] * 2, dtype=torch.int32))
TABLE = torch.tensor([[4, 1, 0], [3, 2, 5]], dtype=torch.int32)


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def caches(pages=False):
    """Keys and values, NaN so far: of two requests with 12 slots, or pages of 4."""
    shape = (6, 2, 4, 8) if pages else (2, 2, 12, 8)
    return [torch.full(shape, 0x7F, dtype=torch.uint8).view(FLOAT8) for _ in range(2)]


def bits(cache):
    return cache.view(torch.uint8)


def whole(cache, pages):
    """In one piece, as bytes."""
    if not pages:
        return bits(cache)
    return bits(cache)[TABLE.long()].transpose(1, 2).reshape(2, 2, 12, 8)


def expected(rows, lengths):
    """Bytes of float8 rows `[2, 2, T, 8]` behind their lengths."""
    cache = bits(caches()[0])
    for b, length in enumerate(lengths):
        cache[b, :, length : length + rows.shape[2]] = bits(rows)[b]
    return cache


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pages", [False, True], ids=["whole", "pages"])
def test_append_stores_what_torch_makes_of_it(backend, pages):
    """Ties, subnormals, what saturates, infinities and NaN, of every dtype."""
    halves = torch.arange(256, dtype=torch.uint8).view(FLOAT8).float().nan_to_num(0)
    between = (halves[:-1] + halves[1:]) / 2  # ties, and of two signs far apart
    rows = torch.cat((halves, between, torch.tensor([464.0, 465.0, 1e9, -1e9, 2**-10, 2**-11])))
    rows = torch.cat((rows, rows * 1.01, torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0])))
    rows = torch.nn.functional.pad(rows, (0, -rows.numel() % 96)).view(-1, 2, 2, 3, 8)
    more = {"block_table": TABLE} if pages else {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for part in rows.to(dtype):
            for scales in ({}, SCALES):
                key_cache, value_cache = caches(pages)
                with env.backend(backend):
                    lens = int32(5, 7)
                    append_cache_(part, part, key_cache, value_cache, lens, **more, **scales)
                for name, cache in (("key_scale", key_cache), ("value_scale", value_cache)):
                    scale = scales.get(name, torch.ones(1, 1))
                    assert torch.equal(whole(cache, pages), expected(stored(part, scale), (5, 7)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_are_float8_are_stored_as_they_are(backend):
    rows = torch.arange(256).to(torch.uint8)[:96].view(2, 2, 3, 8)
    rows = torch.stack((rows, rows + 160)).view(FLOAT8)
    key_cache, value_cache = caches()
    with env.backend(backend):
        append_cache_(*rows, key_cache, value_cache, int32(9, 0))
    assert torch.equal(bits(key_cache), expected(rows[0], (9, 0)))
    assert torch.equal(bits(value_cache), expected(rows[1], (9, 0)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pages", [False, True], ids=["whole", "pages"])
def test_rotated_keys_are_rounded_once(backend, pages):
    torch.manual_seed(0)
    angle = torch.rand(2, 3, 8) * 6
    more = {"block_table": TABLE} if pages else {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        query, key, value = torch.randn(3, 2, 2, 3, 8).to(dtype).unbind()
        key, value = key.clone(), value.clone()
        plain = [torch.zeros(2, 2, 12, 8, dtype=dtype) for _ in range(2)]
        for angles in ((angle.cos(), angle.sin()), (angle.cos().to(dtype), angle.sin().to(dtype))):
            key_cache, value_cache = caches(pages)
            with env.backend(backend):
                out = rotate_append_(
                    query, key, value, *angles, key_cache, value_cache, int32(9, 2), **more,
                    **SCALES,
                )  # fmt: skip
                wanted = rotate_append_(query, key, value, *angles, *plain, int32(9, 2))
            assert torch.equal(out, wanted)
            cos, sin, x = (
                each.to(torch.promote_types(dtype, torch.float32)) for each in (*angles, key)
            )
            low, high = x.chunk(2, -1)
            turned = x * cos[:, None] + torch.cat((-high, low), -1) * sin[:, None]
            rows = stored(turned, SCALES["key_scale"])
            assert torch.equal(whole(key_cache, pages), expected(rows, (9, 2)))
            rows = stored(value, SCALES["value_scale"])
            assert torch.equal(whole(value_cache, pages), expected(rows, (9, 2)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["whole", "pages", "bound"])
def test_commits_move_bytes(backend, form):
    """What float32 caches of the same numbers become."""
    generator = torch.Generator().manual_seed(1)
    shape = (2, 6, 2, 4, 7) if form == "pages" else (2, 2, 2, 12, 7)  # rows of 7 bytes
    table = {"block_table": TABLE} if form == "pages" else {}
    path, length = int32([0, 2, 3], [0, 1, 3]), int32(2, 2)
    accepted = Acceptance(path, length, torch.zeros(2, 3, dtype=torch.int64))
    tokens = torch.tensor([[0, 0, 5, 0]] * 2)  # the walk goes to nodes 1 and 3
    states = [torch.randn(2, 4, 6, generator=generator)]

    def run(lists, commit):
        keys, values = bind_caches(*lists) if form == "bound" else lists
        with env.backend(backend):
            return commit(keys, values, int32(5, 3))

    for commit in (
        lambda k, v, lens: compact_cache_(k, v, path, length, lens, **table),
        lambda k, v, lens: commit_path_(accepted, k, v, states, lens, **table),
        lambda k, v, lens: commit_tree_(tokens, LAYOUT, tokens * 0, k, v, states, lens, 3, **table)[
            1
        ],
    ):
        given = torch.randint(0, 256, (2, *shape), generator=generator, dtype=torch.uint8)
        bytes_of, numbers = given.clone(), given.float()
        ours = run([list(each.view(FLOAT8)) for each in bytes_of], commit)
        theirs = run([list(each) for each in numbers], commit)
        assert torch.equal(bytes_of.float(), numbers) and not torch.equal(bytes_of, given)
        assert ours is theirs is None or torch.equal(ours, theirs)


def test_what_is_refused_by_name():
    rows, plain = torch.randn(2, 2, 2, 3, 8), [torch.zeros(2, 2, 12, 8) for _ in range(2)]
    lens, one = int32(0, 0), torch.ones(1, 1)
    angles = torch.ones(2, 2, 3, 8)
    for append in (
        lambda caches, **more: append_cache_(*rows, *caches, lens, **more),
        lambda caches, **more: rotate_append_(rows[0], *rows, *angles, *caches, lens, **more),
    ):
        with pytest.raises(
            ValueError, match="key_scale must be left out beside a cache in float32"
        ):
            append(plain, key_scale=one)
        with pytest.raises(
            TypeError, match="key_cache must be float32 or float8_e4m3fn, got .*e5m2"
        ):
            append([each.to(torch.float8_e5m2) for each in plain])
        with pytest.raises(TypeError, match="value_cache must be float8_e4m3fn, got float32"):
            append([plain[0].to(FLOAT8), plain[1]])
        with pytest.raises(ValueError, match=r"value_scale must be \[B | 1, Hkv | 1\]"):
            append(caches(), value_scale=torch.ones(3, 1))
        for wrong in (0.0, torch.inf, torch.nan):
            kept = caches()
            with pytest.raises(ValueError, match="value_scale must be positive and finite"):
                append(kept, value_scale=one * wrong)
            assert bool((bits(kept[0]) == 0x7F).all())
    with pytest.raises(ValueError, match="key_scale must be left out beside rows in float8"):
        append_cache_(*rows.to(FLOAT8), *caches(), lens, key_scale=one)
    with pytest.raises(TypeError, match="query must be|key must be"):
        rotate_append_(rows[0].to(FLOAT8), *rows.to(FLOAT8), *angles, *caches(), lens)
    with pytest.raises(TypeError, match="got float8_e5m2"):
        keys = [each.to(torch.float8_e5m2) for each in plain]
        compact_cache_(keys, keys, int32([0, 2], [0, 2]), int32(1, 1), lens)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_and_one_graph(backend):
    rows, angles = torch.randn(3, 2, 2, 3, 8), torch.ones(2, 2, 3, 8)
    lens = int32(0, 4)
    opcheck(APPEND_CACHE, backend, *rows[1:], *caches(), lens, None, *SCALES.values())
    opcheck(ROTATE_APPEND, backend, *rows, *angles, *caches(), lens, None, *SCALES.values())
    lists = [[each] for each in caches()]
    opcheck(COMPACT_CACHE, backend, *lists, int32([0, 2], [0, 2]), int32(1, 1), lens)

    def calls(num_rows, length):
        def make():
            key = torch.arange(2 * 2 * num_rows * 8.0).sin().view(2, 2, num_rows, 8)
            kept = [torch.zeros_like(each) for each in caches()]
            return key, *kept, int32(length, 0), *SCALES.values()

        return make

    def append(key, key_cache, value_cache, lens, key_scale, value_scale):
        append_cache_(
            key, key, key_cache, value_cache, lens, key_scale=key_scale, value_scale=value_scale
        )
        return key_cache.float(), value_cache.float()

    with env.backend(backend):
        reread = [(lambda make=make: make()) for make in (calls(3, 2), calls(5, 7), calls(2, 9))]
        compiles_once(append, reread)
