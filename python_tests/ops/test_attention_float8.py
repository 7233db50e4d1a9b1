"""tree_attention on float8 caches: what bytes and scales mean, on every backend of a CPU."""

import math
from dataclasses import replace

import pytest
import torch
from attention_oracle import CPU_BACKENDS, Case, tree_bits
from dispatch import compiles_once, opcheck
from float8_cases import FLOAT8, OF_EACH, Stored
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_cases import LAYOUTS, Pages
from test_attention_anchors import CASES as ANCHORED_CASES
from test_attention_bias import drawn_bias, taken_away, weighed
from test_attention_dispatch import op_arguments
from test_attention_tree import BUSHY, CASES, drawn_cases

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import attention_mass, tree_attention
from sparrow_kernels.ops.attention.ops import TREE_ATTENTION, TREE_ATTENTION_OUT
from sparrow_kernels.testing import assert_close

BACKENDS = [name for name in CPU_BACKENDS if name != "torch"]
PLAIN = Case([tree_bits(BUSHY)] * 2, [133, 90], capacity=160, starts=[3, 0])


def same(ours, wanted) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, wanted, strict=True))


def in_pages(kept: Stored, page_size: int, layout: str, device: str = "cpu"):
    """The result on the same bytes in pages, NaN in every other page and row."""
    wide = replace(kept.case)
    wide.query, wide.key, wide.value = kept.case.query, kept.case.key, kept.case.value
    wide.dtype = FLOAT8  # of the pages
    scales = {name: scale.to(device) for name, scale in kept.scales.items()}
    return Pages(wide, page_size, layout).run(device, **scales)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_case_and_the_same_bits_in_pages(backend):
    """With anchors and a window too, NaN in all that no row sees, scales of every kind."""
    every = [case for case in (CASES | ANCHORED_CASES).values() if case.rows and case.query.numel()]
    with env.backend(backend):
        for number, case in enumerate(every):
            if case.dtype == torch.float64:
                continue
            kept = Stored(case, OF_EACH[number % 4]).poisoned()
            results = kept.run()
            kept.check(results)
            paged = in_pages(kept, (1, 16, 64)[number % 3], LAYOUTS[number % 3])
            assert same(paged, results), number


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=drawn_cases(), of_each=st.sampled_from(OF_EACH))
@settings(max_examples=40, deadline=None)
def test_drawn_cases(backend, case, of_each):
    kept = Stored(case, of_each).poisoned()
    with env.backend(backend):
        kept.check(kept.run())


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_byte_means_what_it_does_to_torch(backend):
    """One slot is its own attention: the result is its value, bit for bit. Of a NaN, NaN."""
    codes = torch.arange(256, dtype=torch.uint8).view(FLOAT8)
    words, nothing = torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, 1, 256)
    one = torch.tensor([1], dtype=torch.int32)
    value = codes.view(1, 1, 1, 256)
    with env.backend(backend):
        for scale in (None, torch.full((1, 1), 0.37)):
            out = tree_attention(nothing, nothing.to(FLOAT8), value, words, one, value_scale=scale)
            wanted = codes.float() if scale is None else codes.float() * scale[0]
            assert torch.equal(out.flatten().nan_to_num(7.0), wanted.nan_to_num(7.0))
        # As keys: a row that picks one dim out scores its element.
        query, key = torch.eye(256)[None, :, None], codes.float().nan_to_num(1.5).to(FLOAT8)
        key = key.view(1, 1, 1, 256)
        _, lse = tree_attention(query, key, key, words, one, scale=1.0, return_lse=True)
        assert torch.equal(lse.flatten(), key.float().flatten())


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_to_sixteen_rows_of_every_dtype(backend):
    with env.backend(backend):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for rows in range(1, 17):
                chain = [tree_bits(list(range(-1, rows - 1)))]
                case = Case(chain, [70], capacity=96, heads=14, head_dim=40, dtype=dtype)
                kept = Stored(case, (False, True))
                kept.check(kept.run())


@pytest.mark.parametrize("backend", BACKENDS)
def test_with_a_bias(backend):
    for number, case in enumerate((PLAIN, ANCHORED_CASES["text around a clip"])):
        kept = Stored(case)
        bias = drawn_bias(case, OF_EACH[number + 2])
        exact = weighed(kept.meant(), bias)
        lost = taken_away(kept.meant(), bias)
        for stored_rows, poisoned in ((kept.case.key, lost.key), (kept.case.value, lost.value)):
            stored_rows.view(torch.uint8)[poisoned.isnan()] = 0xFF
        with env.backend(backend):
            results = kept.run(key_bias=bias)
        for name, result, wanted in zip(("out", "lse"), results, exact, strict=True):
            assert_close(result, wanted, name=name, summands=4.0)


@pytest.mark.skipif("native" not in BACKENDS, reason="the native backend fixes bits")
def test_a_row_s_bits_are_its_own():
    """Whatever T, B and the other requests, heads and scales are, with `num_splits`."""
    case = replace(PLAIN, head_dim=64)
    kept = Stored(case)
    out, lse = kept.run(num_splits=3)
    for b in range(2):
        for row in (0, 4, 10):
            alone = replace(
                case, rows=[[case.rows[b][row]]], prefix_lens=[case.prefix_lens[b]],
                starts=[case.starts[b]],
            )  # fmt: skip
            alone.query = case.query[b : b + 1, :, row : row + 1]
            part = Stored(alone)
            part.case.query = alone.query
            part.case.key, part.case.value = kept.case.key[b : b + 1], kept.case.value[b : b + 1]
            part.scales = {name: scale[b : b + 1] for name, scale in kept.scales.items()}
            ours = part.run(num_splits=3)
            assert torch.equal(ours[0][0, :, 0], out[b, :, row])
            assert torch.equal(ours[1][0, :, 0], lse[b, :, row])


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_and_out_and_no_scale(backend):
    kept = Stored(replace(PLAIN, dtype=torch.bfloat16))
    query, key, value, words, lens = kept.case.arguments()
    options = kept.case.options() | kept.scales
    slab = torch.full((2, 160, 3, 2, 16), math.nan).to(FLOAT8)  # K, nothing, V, slots outside
    slab[:, :, 0], slab[:, :, 2] = key.transpose(1, 2), value.transpose(1, 2)
    views = slab[:, :, 0].transpose(1, 2), slab[:, :, 2].transpose(1, 2)
    out, lse = torch.empty_like(query), torch.empty(query.shape[:3])
    with env.backend(backend):
        tree_attention(query, *views, words, lens, out=(out, lse), **options)
        assert same((out, lse), kept.run())
        ones = dict.fromkeys(kept.scales, torch.ones(1, 1))
        assert same(kept.case.run(), kept.case.run(**ones))
        spread = {name: torch.stack([scale] * 3, 1)[:, 1] for name, scale in kept.scales.items()}
        assert not any(scale.is_contiguous() for scale in spread.values())
        assert same(kept.case.run(**spread), kept.run())


def test_float64_rows_and_the_torch_backend_go_to_one_that_takes_float8():
    kept = Stored(replace(PLAIN, dtype=torch.float64))
    for backend in CPU_BACKENDS:
        with env.backend(backend):
            out, lse = kept.run()
            exact = kept.meant().expected()
            torch.testing.assert_close(out, exact[0], rtol=1e-6, atol=1e-6)


def test_what_is_refused_by_name():
    kept = Stored(PLAIN)
    query, key, value, words, lens = kept.case.arguments()
    one = torch.ones(1, 1)

    def attend(key=key, value=value, **more):
        return tree_attention(query, key, value, words, lens, **more)

    with pytest.raises(TypeError, match="key must be float32 or float8_e4m3fn, got float8_e5m2"):
        attend(key.float().to(torch.float8_e5m2), value)
    with pytest.raises(TypeError, match="value must be float8_e4m3fn, got float32"):
        attend(value=value.float())
    with pytest.raises(TypeError, match="query must be .*, got float8_e4m3fn"):
        tree_attention(query.to(FLOAT8), key, value, words, lens)
    for name in ("key_scale", "value_scale"):
        with pytest.raises(ValueError, match=f"{name} must be left out beside a cache in float32"):
            attend(key.float(), value.float(), **{name: one})
        message = rf"{name} must be \[B | 1, Hkv | 1\] = \[2 | 1, 2 | 1\]"
        for shape in ((3, 1), (1, 4)):
            with pytest.raises(ValueError, match=message):
                attend(**{name: torch.ones(shape)})
        with pytest.raises(TypeError, match=f"{name} must be float32, got bfloat16"):
            attend(**{name: one.bfloat16()})
        with pytest.raises(TypeError, match=f"{name} must be a tensor"):
            attend(**{name: 0.5})
        for wrong in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"{name} must be positive and finite"):
                attend(**{name: one * wrong})
    with pytest.raises(TypeError, match="key must be float32, got float8_e4m3fn"):
        attention_mass(query, key, lens)
    with pytest.raises(NotImplementedError, match="key_scale must not require grad"):
        attend(key_scale=one.clone().requires_grad_())


def test_autocast_leaves_the_cache_alone():
    kept = Stored(PLAIN)
    query, key, value, words, lens = kept.case.arguments()
    with torch.autocast("cpu", torch.bfloat16):
        out = tree_attention(query, key, value, words, lens, **kept.scales)
    assert out.dtype == torch.bfloat16
    assert torch.equal(
        out, tree_attention(query.bfloat16(), key, value, words, lens, **kept.scales)
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_one_graph_and_vmap(backend):
    case = Case([tree_bits(BUSHY)] * 2, [33, 5], starts=[0, 2])
    kept = Stored(case)
    arguments = op_arguments(case)
    arguments[1:3] = kept.case.key, kept.case.value
    scales = kept.scales.values()
    opcheck(TREE_ATTENTION, backend, *arguments, None, None, *scales)
    out, lse = torch.empty_like(case.query), torch.empty(case.query.shape[:3])
    opcheck(TREE_ATTENTION_OUT, backend, *arguments, out, lse, None, None, *scales)

    def calls(size, length, capacity):
        def make():
            kept = Stored(Case([tree_bits(BUSHY[:size])], [length], capacity=capacity))
            return *kept.case.arguments(), *kept.scales.values()

        return make

    def attend(query, key, value, words, lens, key_scale, value_scale):
        return tree_attention(
            query, key, value, words, lens, return_lse=True, key_scale=key_scale,
            value_scale=value_scale,
        )  # fmt: skip

    with env.backend(backend):
        compiles_once(attend, [calls(5, 20, 64), calls(7, 9, 40), calls(11, 33, 96)])
        query, *rest = kept.case.arguments()
        several = torch.stack((query, query.sin()))
        at_once = torch.vmap(lambda x: attend(x, *rest, *kept.scales.values())[0])(several)
        assert torch.equal(at_once[1], attend(several[1], *rest, *kept.scales.values())[0])
