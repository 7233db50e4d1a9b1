"""The Triton merge of parts, and the Triton anchor index, against their definitions."""

import math

import pytest
import torch
from dispatch import opcheck
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import DEVICES, interpreted
from test_attention_anchors import listed
from test_attention_merge import merged, parts

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import anchor_index, merge_attention
from sparrow_kernels.ops.attention.ops import ANCHOR_INDEX, MERGE_ATTENTION
from sparrow_kernels.ops.attention.triton.merge import merge_splits
from sparrow_kernels.testing import assert_close


def merge(outs, lses, device):
    """Merged on a device by Triton, and brought back."""
    with env.backend("triton"):
        out, lse = merge_attention([t.to(device) for t in outs], [t.to(device) for t in lses])
    return out.cpu(), lse.cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("number", [1, 2, 9])
def test_parts_count_by_their_mass(number, dtype, device):
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("left to other backends under the interpreter")
    outs, lses = parts(number, dtype, shape=(2, 3, 5, 24))
    out, lse = merge(outs, lses, device)
    exact, exact_lse = merged(outs, lses)
    share = torch.stack(lses).softmax(0).to(dtype)
    assert out.dtype == dtype and lse.dtype == torch.float32
    assert_close(out, exact, (torch.stack(outs) * share[..., None]).sum(0))
    assert_close(lse, exact_lse, torch.stack(lses).logsumexp(0))


@pytest.mark.parametrize("device", DEVICES)
def test_parts_without_mass_are_not_read(device):
    outs, lses = parts(3)
    lses[0][0] = -math.inf
    outs[0][0] = math.nan
    lses[1][0, 1] = lses[2][0, 1] = -math.inf
    outs[2][0, 1] = math.inf
    out, lse = merge(outs, lses, device)
    exact, exact_lse = merged(outs, lses)
    assert out[0, 1].abs().max() == 0 and bool(lse[0, 1].isneginf().all())
    assert_close(out, exact)
    assert_close(lse, exact_lse)


@pytest.mark.parametrize("device", DEVICES)
def test_far_apart_masses_do_not_overflow(device):
    outs, lses = parts(3, spread=3e4)
    outs[0][lses[0] < lses[1] - 200] = math.inf  # of no mass beside the other
    out, _ = merge(outs, lses, device)
    assert_close(out, merged(outs, lses)[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("number", [2, 8, 19])
@pytest.mark.parametrize("tile", [(1, 32), (4, 8)], ids=str)
def test_splits_several_rows_at_once(tile, number, device):
    """Rows that fill no last program, a padded head dim, a result that lies strided, without its
    lse too. A split without mass has not been written."""
    outs, lses = parts(number, shape=(2, 3, 5, 24))
    exact, exact_lse = merged(outs, lses)
    outs.append(torch.full_like(outs[0], math.nan))
    lses.append(torch.full_like(lses[0], -math.inf))
    splits, weights = torch.stack(outs).to(device), torch.stack(lses).to(device)
    for lse in (torch.empty(2, 5, 3, device=device).transpose(1, 2), None):
        out = torch.empty(2, 5, 3, 24, device=device).transpose(1, 2)
        merge_splits(splits, weights, out, lse, tile, False)
        assert_close(out.cpu(), exact)
        if lse is not None:
            assert_close(lse.cpu(), exact_lse)


@pytest.mark.parametrize("device", DEVICES)
def test_strided_parts_and_an_empty_batch(device):
    outs, lses = parts(2)
    strided = [outs[0].transpose(1, 2).contiguous().transpose(1, 2), outs[1]]
    strided_lses = [lses[0], lses[1].mT.contiguous().mT]
    scattered = [outs[0].mT.contiguous().mT, outs[1]]
    wanted = merge(outs, lses, device)
    for given_outs, given_lses in ((strided, strided_lses), (scattered, lses)):
        for ours, plain in zip(merge(given_outs, given_lses, device), wanted, strict=True):
            assert torch.equal(ours, plain) and ours.is_contiguous()
    nothing = merge([outs[0][:0]] * 2, [lses[0][:0]] * 2, device)
    assert list(nothing[0].shape) == [0, 3, 5, 8]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_index_is_the_definition(device):
    @given(
        st.integers(0, 12).flatmap(
            lambda n: st.lists(
                st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=4
            )
        ),
        st.none() | st.integers(0, 14),
    )
    @settings(max_examples=60, deadline=None)
    def holds(rows, max_anchors):
        mask = torch.tensor(rows, dtype=torch.bool).view(len(rows), -1).to(device)
        with env.checks(False), env.backend("triton"):
            index = anchor_index(mask, max_anchors)
        most = mask.shape[1] if max_anchors is None else max_anchors
        for b, row in enumerate(rows):
            got = (index.slots[b].tolist(), index.count[b].item(), index.rank[b].tolist())
            assert got == listed(row, most)

    holds()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("max_anchors", [None, 700, 3000])
def test_index_of_several_blocks(max_anchors, device):
    mask = torch.rand(2, 2600, generator=torch.Generator().manual_seed(0)) < 0.4
    strided = mask.T.contiguous().T.to(device)
    with env.checks(False):
        with env.backend("triton"):
            ours = anchor_index(strided, max_anchors)
        with env.backend("reference"):
            wanted = anchor_index(mask, max_anchors)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(ours, wanted, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_index_of_nothing(device):
    with env.backend("triton"):
        index = anchor_index(torch.zeros(0, 5, dtype=torch.bool, device=device))
    assert [list(tensor.shape) for tensor in index] == [[0, 5], [0], [0, 6]]


@interpreted
def test_are_ops():
    opcheck(MERGE_ATTENTION, "triton", *parts(2, shape=(1, 2, 3, 8)))
    opcheck(ANCHOR_INDEX, "triton", torch.rand(2, 9) < 0.5, 9)


@pytest.mark.gpu
def test_are_captured_without_a_look_from_the_host():
    outs, lses = ([t.cuda() for t in each] for each in parts(3))
    mask = torch.rand(2, 300, device="cuda") < 0.5
    anchor_index(mask, 300)
    merge_attention(outs, lses)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        index = anchor_index(mask, 300)
        out, lse = merge_attention(outs, lses)
    mask.logical_not_()
    lses[0].neg_()
    graph.replay()
    torch.cuda.synchronize()
    for got, wanted in zip(index, anchor_index(mask, 300), strict=True):
        assert torch.equal(got, wanted)
    for got, wanted in zip((out, lse), merge_attention(outs, lses), strict=True):
        assert torch.equal(got, wanted)
