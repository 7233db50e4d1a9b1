"""A bias on the scores of committed slots: what it weighs, what it takes away."""

import math
from dataclasses import replace

import pytest
import torch
from attention_oracle import CPU_BACKENDS, Case, tree_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_cases import Pages
from test_attention_anchors import CASES as ANCHORED_CASES
from test_attention_tree import BUSHY, CASES, drawn_cases
from torch import Tensor

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import tree_attention
from sparrow_kernels.testing import assert_close

PLAIN = Case([tree_bits(BUSHY)] * 2, [133, 90], capacity=160, starts=[3, 0])
OF_EACH = ((False, False), (True, False), (False, True), (True, True))
"""Whether requests and KV heads have biases of their own."""


def drawn_bias(case: Case, of_each: tuple[bool, bool], lost: float = 0.2, seed: int = 0) -> Tensor:
    """`[B | 1, Hkv | 1, N]`, some of it -inf; NaN where no slot is committed."""
    generator = torch.Generator().manual_seed(seed)
    batch, heads = len(case.rows) if of_each[0] else 1, case.kv_heads if of_each[1] else 1
    size = (batch, heads, case.capacity)
    bias = torch.randn(size, generator=generator)
    bias[torch.rand(size, generator=generator) < lost] = -math.inf
    bias[..., max(case.prefix_lens, default=0) :] = math.nan
    return bias


def weighed(case: Case, bias: Tensor) -> tuple[Tensor, Tensor]:
    """From the definition, in float64: a slot's weight times e^bias, one of weight 0 not there."""
    group = case.heads // case.kv_heads
    bias = bias.double().expand(len(case.rows), case.kv_heads, -1)
    out = torch.zeros(case.query.shape, dtype=torch.float64)
    lse = torch.full(case.query.shape[:3], -math.inf, dtype=torch.float64)
    for b, rows in enumerate(case.rows):
        for row in range(len(rows)):
            for head in range(case.heads):
                of_head = bias[b, head // group]
                weight_of = {
                    slot: of_head[slot].exp().item() if slot < case.prefix_lens[b] else 1.0
                    for slot in case.seen(b, row)
                }
                slots = [slot for slot, weight in weight_of.items() if weight > 0]
                if not slots:
                    continue
                keys, values = (
                    cache[b, head // group, slots].double() for cache in (case.key, case.value)
                )
                scores = keys @ case.query[b, head, row].double() * case.head_dim**-0.5
                times = torch.tensor([weight_of[slot] for slot in slots], dtype=torch.float64)
                masses = (scores - scores.max()).exp() * times
                lse[b, head, row] = scores.max() + masses.sum().log()
                out[b, head, row] = (masses / masses.sum()) @ values
    return out, lse


def taken_away(case: Case, bias: Tensor) -> Case:
    """The same with NaN in the keys and values of slots that a bias of -inf takes away."""
    other = replace(case)
    lost = bias.isneginf().expand(len(case.rows), case.kv_heads, -1).clone()
    for b, length in enumerate(case.prefix_lens):
        lost[b, :, length:] = False  # of the tree, whatever the bias says
    for cache in (other.key, other.value):
        cache[lost] = math.nan
    return other


def check(case: Case, bias: Tensor, results: tuple[Tensor, Tensor]) -> None:
    """Results held to the definition: scores and biases are drawn with deviation 1."""
    for name, result, exact in zip(("out", "lse"), results, weighed(case, bias), strict=True):
        assert_close(result, exact, name=name, summands=4.0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_weights_times_the_exponential_of_the_bias(backend):
    """Every case, with anchors and a window too, whether a bias is each request's and head's or
    not; and in pages."""
    cases = [*(CASES | ANCHORED_CASES).values(), PLAIN]
    with env.backend(backend):
        for number, case in enumerate(each for each in cases if each.rows):
            if case.dtype.itemsize == 2:
                case = replace(case, dtype=torch.float32)
            bias = drawn_bias(case, OF_EACH[number % 4], seed=number)
            poisoned = taken_away(case, bias)
            results = poisoned.run(key_bias=bias)
            check(case, bias, results)
            pages = Pages(poisoned, 16)
            wide = torch.nn.functional.pad(bias, (0, pages.slots - case.capacity))
            for paged, whole in zip(pages.run(key_bias=wide), results, strict=True):
                assert torch.equal(paged, whole)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@given(case=drawn_cases(), of_each=st.sampled_from(OF_EACH), lost=st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=40, deadline=None)
def test_drawn_cases(backend, case, of_each, lost):
    bias = drawn_bias(case, of_each, lost, case.seed)
    with env.backend(backend):
        check(case, bias, taken_away(case, bias).run(key_bias=bias))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_slot_taken_away_is_one_that_is_not_there(backend):
    """The bits of a shorter prefix, or of one that begins later; and of half precision."""
    for dtype in (torch.float32, torch.bfloat16):
        case = Case([[0, 0, 0]], [150], capacity=192, dtype=dtype)
        none = torch.zeros((1, 1, 192), dtype=dtype)
        for begin, end in ((0, 100), (64, 150), (0, 0)):
            bias = none.clone()
            bias[..., :begin] = bias[..., end:] = -math.inf
            part = replace(case, prefix_lens=[end], starts=[begin])
            with env.backend(backend):
                ours = taken_away(case, bias).run(key_bias=bias, num_splits=1)
                wanted = part.run(key_bias=none, num_splits=1)
            for left, right in zip(ours, wanted, strict=True):
                if backend == "native":
                    assert torch.equal(left, right)
                else:
                    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_the_model_s_dtype_and_float32(backend):
    for dtype in (torch.float16, torch.bfloat16):
        case = replace(PLAIN, dtype=dtype)
        bias = drawn_bias(case, (True, True)).to(dtype)
        with env.backend(backend):
            same = case.run(key_bias=bias)
            wide = case.run(key_bias=bias.float())
        assert torch.equal(same[0], wide[0]) and torch.equal(same[1], wide[1])
        exact = weighed(case, bias)[0]
        assert_close(same[0], exact, summands=1.0)


def test_bad_biases_are_named():
    query, key, value, words, lens = PLAIN.arguments()

    def attend(bias):
        return tree_attention(query, key, value, words, lens, key_bias=bias)

    message = r"key_bias must be \[B | 1, Hkv | 1, N\] = \[2 | 1, 2 | 1, 160\]"
    for shape in ((3, 1, 160), (1, 4, 160)):
        with pytest.raises(ValueError, match=message):
            attend(torch.zeros(shape))
    with pytest.raises(ValueError, match="key_bias must be .*160"):
        attend(torch.zeros(1, 1, 161))
    with pytest.raises(ValueError, match="key_bias must be contiguous in its last dim"):
        attend(torch.zeros(1, 1, 320)[..., ::2])
    with pytest.raises(TypeError, match="key_bias must be float32, got float64"):
        attend(torch.zeros(1, 1, 160, dtype=torch.float64))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_bias_that_is_no_weight_is_named(batch, bad, backend):
    """Where a committed slot has it: the left padding and what follows the prefix may hold any."""
    query, (key, value) = torch.randn(2, 2, 1, 8), torch.randn(2, 2, 1, 9, 8)
    words, lens, starts = torch.ones(2, 1, 1, dtype=torch.int64), (4, 6), (2, 1)
    given = {
        "prefix_lens": torch.tensor(lens, dtype=torch.int32),
        "prefix_starts": torch.tensor(starts, dtype=torch.int32),
    }
    with env.backend(backend), env.checks(True):
        for slot in range(9):
            bias = torch.zeros(batch, 1, 9)
            bias[-1, 0, slot] = bad
            read = [starts[b] <= slot < lens[b] for b in ((1,) if batch == 2 else (0, 1))]
            if not any(read):
                result = tree_attention(query, key, value, words, **given, key_bias=bias)
                assert bool(result.isfinite().all())
                continue
            where = rf"key_bias\[{batch - 1}\]\[0\]\[{slot}\] = {bad}"
            message = f"key_bias must be a number or -inf at every committed slot, got {where}"
            for out in (None, torch.zeros(2, 2, 1, 8)):
                with pytest.raises(ValueError, match=message):
                    tree_attention(query, key, value, words, **given, key_bias=bias, out=out)
