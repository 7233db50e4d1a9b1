"""The Triton kernels of anchored window attention: against float64, poison, the same bits twice.

Small tiles let short sequences cross many of them. The tiles of a GPU: test_triton_window_gpu.py.
"""

import re

import hypothesis.strategies as st
import pytest
import torch
from dispatch import compiles_once, opcheck
from hypothesis import HealthCheck, given, settings
from interpreter import DEVICES
from triton_window_cases import CASES, attend, check, largest_summand, scattered
from window_cases import added_up, drawn, lse_and_references, text, with_gradients

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import anchored_window_attention
from sparrow_kernels.ops.attention.triton import window_tiles
from sparrow_kernels.ops.attention.window_ops import ANCHORED_WINDOW, ANCHORED_WINDOW_BACKWARD
from sparrow_kernels.testing import assert_close

on_each_device = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 16, and anchors split over programs as soon as there are two steps of work."""

    def use(rows=16, keys=16, split=5):
        from sparrow_kernels.ops.attention.triton import window_backward, window_forward

        tiles = window_tiles.Tiles(rows, keys, 4, 2)
        for module in (window_forward, window_backward):
            monkeypatch.setattr(module, "tiles_for", lambda *_: tiles)
        monkeypatch.setattr(window_backward, "split_programs", lambda *_: split)
        monkeypatch.setattr(window_backward, "_STEPS", 2)

    use()
    return use


@pytest.mark.slow
@on_each_device
@pytest.mark.parametrize("name", CASES)
def test_result_and_gradients(name, device, small_tiles):
    mask, window, options = CASES[name]
    check(*drawn(mask, **options), mask, window, device)


@on_each_device
@pytest.mark.parametrize(("rows", "keys"), [(32, 16), (16, 32)])
@pytest.mark.parametrize("window", [0, 19])
def test_tiles_need_not_be_square(rows, keys, window, device, small_tiles):
    small_tiles(rows, keys, split=1)
    mask = scattered(55, 0.3)
    check(*drawn(mask, heads=2, kv_heads=1), mask, window, device)


LSE_CASES = [
    "a clip in the middle",
    "window 0, rows that see nothing",
    "the last rows, some see nothing",
    "the last rows, causal",
    "the last rows, ragged",
    "no row",
    "float16",
]


@pytest.mark.slow
@on_each_device
@pytest.mark.parametrize("name", LSE_CASES)
def test_log_sum_exp_and_its_gradient(name, device, small_tiles):
    mask, window, options = CASES[name]
    mask = mask.to(device)
    query, key, value, grad = (tensor.to(device) for tensor in drawn(mask, **options))
    wide = largest_summand(query, key, value, grad)

    def ours(*leaves):
        return anchored_window_attention(*leaves, mask, window=window, return_lse=True)

    with env.backend("triton"), torch.device(device):
        compared = lse_and_references(ours, mask, window, query, key, value, grad)
        added = added_up(query, key, value, grad, mask, window)
    for what, got, exact, rounded in compared:
        if what == "lse":
            assert got.dtype == torch.float32
            blind = exact.isinf()
            assert torch.equal(got.isinf(), blind)
            got, exact, rounded = (x.masked_fill(blind, 0.0) for x in (got, exact, rounded.float()))
        summands = {"lse": 4.0, "d_query": wide, "d_key": wide, "d_value": added}.get(what, 0.0)
        assert_close(got, exact, rounded, name=what, summands=summands)


# Runs, so that tiles of anchors alone, of none and of both come up.
masks = st.lists(st.tuples(st.booleans(), st.integers(1, 6)), min_size=1, max_size=4).map(
    lambda runs: torch.tensor([[is_text for is_text, n in runs for _ in range(n)]])
)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES[:1])
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    mask=masks,
    window=st.integers(0, 30),
    group=st.integers(1, 2),
    split=st.integers(1, 4),
    ahead=st.integers(0, 20),
)
def test_drawn_masks(device, small_tiles, mask, window, group, split, ahead):
    small_tiles(split=split)
    rows = max(mask.shape[1] - ahead, 1)
    check(*drawn(mask, heads=group, kv_heads=1, rows=rows), mask, window, device)


@pytest.mark.slow
@on_each_device
def test_the_last_rows_are_those_of_a_whole_call(device, small_tiles):
    """Not a row ahead of them is read: there memory is poisoned. Nor is one written."""
    mask, rows, window = scattered(70, 0.3).to(device), 41, 9
    query, key, value, grad = (tensor.to(device) for tensor in drawn(mask))
    query[:, :, :-rows] = grad[:, :, :-rows] = 0.0
    with env.backend("triton"):
        whole = with_gradients(attend(mask, window), query, key, value, grad)
        query[:, :, :-rows] = grad[:, :, :-rows] = torch.nan
        last = [query[:, :, -rows:], key, value, grad[:, :, -rows:]]
        few = with_gradients(attend(mask, window), *last)
    for left, right in zip(few[:2], whole[:2], strict=True):
        torch.testing.assert_close(left, right[:, :, -rows:], rtol=1e-4, atol=1e-5)
    for left, right in zip(few[2:], whole[2:], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@on_each_device
def test_rows_that_nobody_sees_are_not_read(device, small_tiles):
    mask = scattered(70, 0.3).to(device)
    query, key, value, grad = (tensor.to(device) for tensor in drawn(mask))
    unseen = ~mask[0]
    poisoned = [key.clone(), value.clone()]
    for tensor in poisoned:
        tensor[:, :, unseen] = torch.nan
    with env.backend("triton"):
        clean = with_gradients(attend(mask, 0), query, key, value, grad)
        dirty = with_gradients(attend(mask, 0), query, *poisoned, grad)
    for left, right in zip(clean, dirty, strict=True):
        assert torch.equal(left, right)
    for gradient in dirty[2:]:
        assert not gradient[:, :, unseen].any() and gradient[:, :, mask[0]].all()
    # Nor is any row looked at on behalf of slots that no row sees.
    query[:, :, 40] = grad[:, :, 40] = torch.nan
    with env.backend("triton"):
        for gradient in with_gradients(attend(mask, 0), query, key, value, grad)[2:]:
            assert not gradient[:, :, unseen].any()


@pytest.mark.slow
@on_each_device
def test_what_is_not_seen_is_skipped_not_masked(device, small_tiles):
    """A masked product would still carry the NaN: 0 * NaN is NaN."""
    window, length, tile = 6, 90, 16
    mask = scattered(length, 0.1).to(device)
    mask[0, 0] = mask[0, length - 1] = False
    query, key, value, grad = (tensor.to(device) for tensor in drawn(mask))
    key[:, :, 0] = value[:, :, 0] = torch.nan
    with env.backend("triton"):
        out, d_query, d_key, d_value = with_gradients(attend(mask, window), query, key, value, grad)
        assert out[:, :, 0].isnan().all() and d_query[:, :, 0].isnan().all()
        for tensor in (out, d_query):
            assert tensor[:, :, window + tile :].isfinite().all()
        key[:, :, 0] = value[:, :, 0] = 1.0
        query[:, :, -1] = grad[:, :, -1] = torch.nan
        _, _, d_key, d_value = with_gradients(attend(mask, window), query, key, value, grad)
    for tensor in (d_key[0, :, mask[0]], d_key[:, :, -1], d_value[0, :, mask[0]]):
        assert tensor.isnan().all()
    # A tile of other slots spans a few more than its 16, by the anchors between them.
    far = ~mask[0] & (torch.arange(length, device=device) < length - window - 2 * tile)
    assert d_key[:, :, far].isfinite().all() and d_value[:, :, far].isfinite().all()


@on_each_device
def test_the_same_bits_every_time(device, small_tiles):
    mask = scattered(90, 0.2).to(device)
    tensors = [tensor.to(device) for tensor in drawn(mask, heads=2, kv_heads=1)]
    with env.backend("triton"):
        first = with_gradients(attend(mask, 9), *tensors)
        second = with_gradients(attend(mask, 9), *tensors)
    for left, right in zip(first, second, strict=True):
        assert torch.equal(left, right)


@pytest.mark.slow
@on_each_device
def test_strided_inputs_and_scale(device, small_tiles):
    mask = scattered(40, 0.2).to(device)
    tensors = [tensor.to(device) for tensor in drawn(mask)]
    apart = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors]
    with env.backend("triton"):
        plain = with_gradients(attend(mask, 5, -0.7), *tensors)
        strided = with_gradients(attend(mask, 5, -0.7), *apart)
        spread = with_gradients(attend(mask.expand(1, -1), 5, -0.7), *tensors[:3], tensors[3])
    with env.backend("reference"):
        reference = with_gradients(attend(mask.cpu(), 5, -0.7), *(t.cpu() for t in tensors))
    for one, two, three, expected in zip(plain, strided, spread, reference, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)
        torch.testing.assert_close(one.cpu(), expected, rtol=1e-4, atol=1e-5)


@on_each_device
def test_log_sum_exp(device, small_tiles):
    mask = text(60, (0, 30)).to(device)
    tensors = [tensor.to(device) for tensor in drawn(mask)[:3]]
    with env.backend("triton"):
        out, lse = ANCHORED_WINDOW(*tensors, mask, 0, 0.25)
    assert not out[:, :, :30].any() and (lse[:, :, :30] == -torch.inf).all()
    reference = ANCHORED_WINDOW.implementations["reference"].function
    exact = reference(*(tensor.double() for tensor in tensors), mask, 0, 0.25)[1]
    assert_close(lse, exact, reference(*tensors, mask, 0, 0.25)[1], name="lse", summands=4.0)


@pytest.mark.slow
@on_each_device
def test_are_ops(device, small_tiles):
    mask = scattered(30, 0.2).to(device)
    query, key, value, grad = (tensor.to(device) for tensor in drawn(mask))
    with env.backend("triton"):
        out, lse = ANCHORED_WINDOW(query, key, value, mask, 3, 0.25)
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (query, key, value)]
    opcheck(ANCHORED_WINDOW, "triton", *leaves, mask, 3, 0.25)
    saved = [grad, query, key, value, out, lse, mask, 3, 0.25]
    for arguments in (saved, [*saved, torch.randn_like(lse)]):
        opcheck(ANCHORED_WINDOW_BACKWARD, "triton", *arguments)

    def calls(length, window, rows=None):
        mask = text(length, (4, 9)).to(device)
        return lambda: (*(tensor.to(device) for tensor in drawn(mask, rows=rows)[:3]), mask, window)

    def run(query, key, value, mask, window):
        return anchored_window_attention(query, key, value, mask, window=window, return_lse=True)

    with env.backend("triton"):
        compiles_once(run, [calls(12, 3), calls(30, 4)])
        compiles_once(run, [calls(12, 3, 5), calls(30, 4, 11)])


def test_what_it_does_not_take():
    takes = ANCHORED_WINDOW.implementations["triton"].takes
    mask = text(4)
    for options, reason in (
        ({"dtype": torch.float64}, "float64"),
        ({"head_dim": 257}, "head dims up to 256, not 257"),
        ({"dtype": torch.bfloat16}, "CPU|bfloat16"),
    ):
        query, key, value, grad = drawn(mask, **options)
        assert re.search(reason, takes(query, key, value, mask, 1, 1.0))
        backward = ANCHORED_WINDOW_BACKWARD.implementations["triton"].takes
        assert backward(grad, query, key, value) is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
@pytest.mark.parametrize("kernel", ["forward", "query", "key"])
def test_every_configuration_has_tiles(kernel, head_dim, dtype):
    """Powers of two that `tl.dot` takes, for all GPUs alike."""
    for major, fenced in ((8, True), (9, True), (9, False), (10, True), (10, False), (12, True)):
        tiles = window_tiles.tiles(kernel, dtype, head_dim, major, fenced)
        for size in (tiles.rows, tiles.keys):
            assert size >= 16 and size & (size - 1) == 0
        if not fenced and dtype != torch.float32:
            assert tiles.num_warps == 2 or max(tiles.rows, tiles.keys) <= 64
            assert tiles.num_warps == 2 or tiles.rows < 64
