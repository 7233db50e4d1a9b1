"""merge_attention against the definition in float64."""

import math

import pytest
import torch
from dispatch import compiles_once, opcheck

from sparrow_kernels.ops import env, native
from sparrow_kernels.ops.attention import merge_attention
from sparrow_kernels.ops.attention.ops import MERGE_ATTENTION
from sparrow_kernels.testing import assert_close

BACKENDS = ["reference", *([] if native.unavailable() else ["native"])]


@pytest.fixture(autouse=True, params=BACKENDS)
def backend(request):
    with env.backend(request.param):
        yield request.param


def parts(number: int, dtype=torch.float32, shape=(2, 3, 5, 8), spread=2.0):
    generator = torch.Generator().manual_seed(number)
    outs = [torch.randn(shape, generator=generator).to(dtype) for _ in range(number)]
    return outs, [torch.randn(shape[:3], generator=generator) * spread for _ in range(number)]


def merged(outs, lses):
    lse = torch.stack(lses).double().logsumexp(0)
    shares = [(part.double() - lse).exp().nan_to_num() for part in lses]
    terms = [
        (out.double() * share[..., None]).masked_fill(share[..., None] == 0, 0.0)
        for out, share in zip(outs, shares, strict=True)
    ]
    return torch.stack(terms).sum(0), lse


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_parts_count_by_their_mass(number, dtype):
    outs, lses = parts(number, dtype)
    out, lse = merge_attention(outs, lses)
    exact, exact_lse = merged(outs, lses)
    share = torch.stack(lses).softmax(0).to(dtype)
    pytorch = (torch.stack(outs) * share[..., None]).sum(0)
    assert out.dtype == dtype and lse.dtype == torch.float32
    assert_close(out, exact, pytorch)
    assert_close(lse, exact_lse, torch.stack(lses).logsumexp(0))


def test_parts_without_mass_are_not_read():
    outs, lses = parts(3)
    lses[0][0] = -math.inf
    outs[0][0] = math.nan
    lses[1][0, 1] = -math.inf
    lses[2][0, 1] = -math.inf
    outs[2][0, 1] = math.inf
    out, lse = merge_attention(outs, lses)
    exact, exact_lse = merged(outs, lses)
    assert out[0, 1].abs().max() == 0 and bool(lse[0, 1].isneginf().all())
    assert_close(out, exact)
    assert_close(lse, exact_lse)


def test_far_apart_masses_do_not_overflow():
    outs, lses = parts(3, spread=3e4)
    out, _ = merge_attention(outs, lses)
    assert_close(out, merged(outs, lses)[0])


def test_strided_parts_and_an_empty_batch():
    outs, lses = parts(2)
    strided = [out.transpose(1, 2).contiguous().transpose(1, 2) for out in outs]
    strided_lses = [lse.mT.contiguous().mT for lse in lses]
    for ours, plain in zip(
        merge_attention(strided, strided_lses), merge_attention(outs, lses), strict=True
    ):
        assert torch.equal(ours, plain) and ours.is_contiguous()
    turned = [out.mT.contiguous().mT for out in outs]
    assert_close(merge_attention(turned, lses)[0], merged(outs, lses)[0])
    nothing = merge_attention([outs[0][:0]] * 2, [lses[0][:0]] * 2)
    assert list(nothing[0].shape) == [0, 3, 5, 8]


def test_refusals():
    outs, lses = parts(2)
    for bad_outs, bad_lses, error, message in (
        ([], [], ValueError, "at least one"),
        (outs, lses[:1], ValueError, "got 2 and 1"),
        ([outs[0], outs[1][1:]], lses, ValueError, r"outs\[1\]"),
        ([outs[0], outs[1].half()], lses, TypeError, r"outs\[1\]"),
        (outs, [lses[0], lses[1].double()], TypeError, r"lses\[1\] must be float32"),
    ):
        with pytest.raises(error, match=message):
            merge_attention(bad_outs, bad_lses)


def test_is_an_op(backend):
    outs, lses = parts(3)
    opcheck(MERGE_ATTENTION, backend, outs, lses)

    def calls(rows):
        return lambda: (*parts(2, shape=(2, 3, rows, 8)),)

    with env.backend(backend):
        compiles_once(lambda outs, lses: merge_attention(outs, lses), [calls(4), calls(7)])
