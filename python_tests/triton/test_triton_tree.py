"""The Triton tree attention against its definition, case by case."""

import math
from dataclasses import replace

import pytest
import torch
from attention_oracle import Case, rows_of, tree_bits
from interpreter import DEVICES
from test_attention_anchors import CASES as ANCHORED_CASES
from test_attention_anchors import MALFORMED
from test_attention_tree import CASES as TREE_CASES
from triton_plans import WAYS, planned

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import tree_attention
from sparrow_kernels.ops.attention.ops import TREE_ATTENTION
from sparrow_kernels.ops.attention.triton import availability
from sparrow_kernels.ops.types import AnchorIndex
from sparrow_kernels.testing import guard_rows

BUSHY = [-1, 0, 0, 1, 1, 2, 3, 3, 4, 6, 9]
DEPTH = [0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5]
TEXT = set(range(5)) | set(range(30, 36))
PLAIN = TREE_CASES["tree off any tile"]
ANCHORED = ANCHORED_CASES["text around a clip"]
ALL_CASES = TREE_CASES | {f"anchored, {name}": case for name, case in ANCHORED_CASES.items()}
# float64 is left to other backends, and bfloat16 to a GPU, where every case runs in it. The long
# ones have a test of their own, with tiles that are not small.
CASES = {
    name: case
    for name, case in ALL_CASES.items()
    if case.dtype in (torch.float32, torch.float16)
    and name not in ("prefix of many scores", "anchored, many blocks", "two words")
}
CASES |= {
    "head dim 16, float16": replace(PLAIN, head_dim=16, dtype=torch.float16),
    "head dim 80": replace(PLAIN, head_dim=80),
    "head dim 96, float16": replace(PLAIN, head_dim=96, dtype=torch.float16),
    "head dim 256, float16": replace(PLAIN, head_dim=256, dtype=torch.float16),
    "group 4, float16": replace(PLAIN, heads=8, dtype=torch.float16),
    "group 7, float16": replace(PLAIN, heads=7, kv_heads=1, dtype=torch.float16),
    "group 8, anchored": replace(ANCHORED, heads=8, kv_heads=1),
    "float16, anchored": replace(ANCHORED, dtype=torch.float16),
    "idle request among others": Case(
        [tree_bits([-1, 0, 1])] * 2 + [[0, 0, 0]], [20, 33, 0], starts=[20, 1, 0]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_matches_the_definition(name, way, device):
    """With NaN in every key and value that no row sees."""
    with planned(way):
        CASES[name].check(CASES[name].poisoned().run(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_splits", [2, 3])
def test_the_tree_s_split_takes_a_share_of_a_longer_prefix(num_splits, device):
    case = Case([tree_bits(BUSHY)] * 2, [300, 170], capacity=340, starts=[0, 17])
    with planned("splits"):
        case.check(case.poisoned().run(device, num_splits=num_splits))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ALL_CASES)
def test_bfloat16(name):
    case = replace(ALL_CASES[name], dtype=torch.bfloat16)
    for way in WAYS:
        with planned(way):
            case.check(case.poisoned().run("cuda"))
    with env.backend("triton"):
        case.check(case.poisoned().run("cuda"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "case",
    [
        TREE_CASES["prefix of many scores"],
        ANCHORED_CASES["many blocks"],
        TREE_CASES["two words"],
        Case([tree_bits(BUSHY)], [300], capacity=340, heads=7, kv_heads=1, dtype=torch.float16),
    ],
    ids=["long prefix", "long anchored prefix", "two words", "float16"],
)
def test_the_table_s_own_tiles(case, device):
    with env.backend("triton"):
        case.check(case.poisoned().run(device))


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_strided_inputs(device):
    case = Case([tree_bits(BUSHY), tree_bits(BUSHY)], [33, 8])
    slab = torch.full((3, 2, 2, 3, 64, 40), math.nan, device=device)
    key = slab[1, 0, :, 1:, :, 8:24].copy_(case.key)
    value = slab[1, 1, :, 1:, :, 20:36].copy_(case.value)
    query = case.query.to(device).transpose(1, 2).contiguous().transpose(1, 2)
    words = torch.full((2, 11, 3), -1, dtype=torch.int64, device=device)
    words[:, :, 1:2] = case.arguments()[3]
    lens = case.arguments()[4].to(device)
    for way in WAYS:
        with planned(way):
            out, lse = tree_attention(query, key, value, words[:, :, 1:2], lens, return_lse=True)
        case.check((out.cpu(), lse.cpu()))


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_out_takes_the_result(way, device):
    case = TREE_CASES["ragged"]
    arguments = [tensor.to(device) for tensor in case.arguments()]
    starts = torch.tensor(case.starts, dtype=torch.int32, device=device)
    shape = case.query.shape
    with planned(way), guard_rows() as guards:
        out = guards.empty(*shape, device=device, name="out")
        lse = guards.empty(*shape[:3], device=device, name="lse")
        tree_attention(*arguments, prefix_starts=starts, return_lse=True, out=(out, lse))
        case.check((out.cpu(), lse.cpu()))
        strided = torch.full(
            (shape[0], shape[2], shape[1], shape[3]), math.nan, device=device
        ).transpose(1, 2)
        alone = tree_attention(*arguments, prefix_starts=starts, out=strided)
        assert alone is strided and torch.equal(alone, out)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [0.7, -0.3, 0.0])
def test_any_scale(scale, device):
    """Also one that turns the order of the scores round, or makes them all alike."""
    case = replace(PLAIN, head_dim=16)
    query, key, value, words, lens = (tensor.to(device) for tensor in case.arguments())
    with planned("splits"):
        out, lse = tree_attention(query, key, value, words, lens, scale=scale, return_lse=True)
    case.query = case.query * scale * 4.0  # the oracle scales by 16 ** -0.5
    case.check((out.cpu(), lse.cpu()))


INVARIANT = {
    "plain": Case([tree_bits(BUSHY)] * 2, [61, 17], capacity=96, starts=[0, 2], num_words=2),
    "anchored": Case(
        [tree_bits(BUSHY)] * 2,
        [61, 33],
        capacity=96,
        anchors=[set(range(0, 50)), TEXT],
        window=20,
        depth=[DEPTH, DEPTH],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("name", INVARIANT)
def test_a_row_has_the_same_bits_alone_and_in_company(name, num_splits, device):
    case = replace(INVARIANT[name], heads=3, kv_heads=1)
    if device == "cuda":
        case = replace(case, dtype=torch.bfloat16)
    parts = [([10], [0]), ([5, 4, 9], [1, 0])]
    for small in (True, False):
        with planned("splits") if small else env.backend("triton"):
            out, lse = case.run(device, num_splits=num_splits)
            for rows, requests in parts:
                alone, alone_lse = rows_of(case, rows, requests).run(device, num_splits=num_splits)
                assert torch.equal(alone, out[requests][:, :, rows])
                assert torch.equal(alone_lse, lse[requests][:, :, rows])


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("length", [-5, 65, 2**31 - 1, -(2**31)])
def test_lengths_and_starts_outside_the_cache(length, device):
    case = Case([tree_bits(BUSHY)], [64 if length > 0 else 0])
    query, key, value, words, _ = (tensor.to(device) for tensor in case.arguments())
    bad = torch.tensor([length], dtype=torch.int32, device=device)
    with planned("splits"), env.checks(False):
        out, lse = tree_attention(query, key, value, words, bad, return_lse=True)
        case.check((out.cpu(), lse.cpu()))
        case = Case([tree_bits(BUSHY)], [40], starts=[40 if length > 0 else 0])
        lens = torch.tensor([40], dtype=torch.int32, device=device)
        out, lse = tree_attention(
            query, key, value, words, lens, prefix_starts=bad, return_lse=True
        )
        case.check((out.cpu(), lse.cpu()))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bit", [14, 63, 64, 127])
def test_bits_past_the_cache(bit, device):
    case = Case([[0b1, 0b11 | 1 << bit]], [50], num_words=2)
    for way in WAYS:
        with planned(way), env.checks(False):
            case.check(case.poisoned().run(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_index(name, device):
    """Some anchors, but nothing outside of the prefix is read."""
    case = ANCHORED
    slab = torch.full((2, 1, 2, 192, 16), math.nan, device=device)
    key = slab[0, :, :, 64:128].copy_(case.key)
    value = slab[1, :, :, 64:128].copy_(case.value)
    options = case.options()
    bad = AnchorIndex(*(tensor.clone() for tensor in options["anchors"]))
    field, spoil = MALFORMED[name]
    spoil(getattr(bad, field))
    query, words, lens = (case.arguments()[place].to(device) for place in (0, 3, 4))
    for way in WAYS:
        with planned(way), env.checks(False):
            out = tree_attention(
                query, key, value, words, lens,
                anchors=AnchorIndex(*(tensor.to(device) for tensor in bad)),
                window=options["window"], depth=options["depth"].to(device),
            )  # fmt: skip
        assert bool(out.isfinite().all())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("depth", [-(2**31), 2**31 - 1])
@pytest.mark.parametrize("window", [1, 2**31 - 1, 2**63 - 1])
def test_distances_that_pass_32_bits(window, depth, device):
    case = replace(ANCHORED, rows=[[0, 1]], depth=[[depth, 0]], window=window)
    with planned("splits"):
        case.check(case.run(device))


@pytest.mark.parametrize("device", DEVICES)
def test_no_slots_at_all(device):
    case = Case([[0, 0]], [0], capacity=0)
    with planned("splits"):
        out, lse = case.run(device)
    assert out.abs().max() == 0 and bool(lse.isneginf().all())


def test_what_is_not_handled_is_named():
    case = TREE_CASES["chain"]
    query, key, value, words, lens = case.arguments()
    with pytest.raises(TypeError, match="key must be float32 or float8_e4m3fn, got float8_e5m2"):
        tree_attention(query, key.to(torch.float8_e5m2), value, words, lens)
    assert availability.refuses(torch.zeros(1, dtype=torch.float64)) == "it has no float64"
    takes = TREE_ATTENTION.implementations["triton"].takes
    assert takes(*torch.zeros(2, 1, 1, 1, 257)) == "its tiles hold head dims up to 256, not 257"
