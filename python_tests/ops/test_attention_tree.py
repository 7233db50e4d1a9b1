"""tree_attention against its definition, on every backend a CPU has."""

import pytest
import torch
from attention_oracle import CPU_BACKENDS, Case, tree_bits, words_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import tree_attention
from sparrow_kernels.ops.attention.ops import TREE_ATTENTION
from sparrow_kernels.testing import assert_close, guard_rows

CHAIN = [-1, 0, 1, 2, 3, 4]
STAR = [-1, 0, 0, 0, 0, 0, 0]
BUSHY = [-1, 0, 0, 1, 1, 2, 3, 3, 4, 6, 9]
DEEPEST = [-1] + list(range(29))
WIDE = [-1] + [(node - 1) // 4 for node in range(1, 70)]

CASES = {
    "one row decodes": Case([tree_bits([-1])], [37]),
    "one row, empty prefix": Case([tree_bits([-1])], [0]),
    "chain": Case([tree_bits(CHAIN)], [41]),
    "star": Case([tree_bits(STAR)], [41]),
    "tree off any tile": Case([tree_bits(BUSHY)], [13]),
    "deepest path": Case([tree_bits(DEEPEST)], [20]),
    "two words": Case([tree_bits(WIDE)], [17], capacity=100),
    "bit 63": Case([[1 << 63, 1 << 63 | 1, 1 << 64]], [5], capacity=80),
    "empty prefix": Case([tree_bits(BUSHY)], [0]),
    "cache full to the last slot": Case([tree_bits(BUSHY)], [53]),
    "a level of a draft": Case([[0b00010, 0b01011, 0b10001]], [30]),
    "a level that leaves gaps": Case([[0b10010000, 0b10000000, 0b00010000]], [30]),
    "the same slots for all rows": Case([[0b11, 0b11, 0b11]], [30]),
    "rows without words": Case([[0, 0b1, 0b10, 0]], [30]),
    "rows without words, nor prefix": Case([[0, 0b1, 0b110, 0]], [0]),
    "nothing at all": Case([[0, 0]], [0]),
    "nothing but the prefix": Case([[0, 0]], [9]),
    "left padding": Case([tree_bits(BUSHY)], [40], starts=[11]),
    "all padding": Case([tree_bits(BUSHY)], [40], starts=[40]),
    "ragged": Case(
        [tree_bits(CHAIN), tree_bits([-1, 0, 0]) + [0] * 3, [0] * 6], [50, 0, 7], starts=[3, 0, 7]
    ),
    "empty batch": Case([], []),
    "no rows": Case([[]], [9]),
    "prefix of many scores": Case([tree_bits(BUSHY)], [1500], capacity=1536, kv_heads=1),
    "group 1": Case([tree_bits(BUSHY)], [33], heads=2, kv_heads=2),
    "group 7": Case([tree_bits(BUSHY)], [33], heads=14, kv_heads=2),
    "group 8": Case([tree_bits(BUSHY)], [33], heads=8, kv_heads=1),
    "head dim 64": Case([tree_bits(BUSHY)], [33], head_dim=64),
    "head dim 72": Case([tree_bits(BUSHY)], [33], head_dim=72),
    "head dim 128": Case([tree_bits(BUSHY)], [33], head_dim=128),
    "head dim 256": Case([tree_bits(BUSHY)], [33], head_dim=256),
    "float64": Case([tree_bits(BUSHY)], [33], dtype=torch.float64),
    "float16": Case([tree_bits(BUSHY)], [33], dtype=torch.float16),
    "bfloat16": Case([tree_bits(BUSHY)], [33], dtype=torch.bfloat16),
    "bfloat16, empty prefix": Case([tree_bits(BUSHY)], [0], dtype=torch.bfloat16),
    "float16, one row": Case([tree_bits([-1])], [33], dtype=torch.float16),
}


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_matches_the_definition(name, backend):
    with env.backend(backend):
        CASES[name].check()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].rows])
def test_what_no_row_sees_is_not_read(name, backend):
    with env.backend(backend):
        clean = CASES[name].run()
        poisoned = CASES[name].poisoned().run()
    for left, right in zip(clean, poisoned, strict=True):
        assert torch.equal(left, right)


@st.composite
def drawn_cases(draw, most_requests=3, most_slots=90):
    batch = draw(st.integers(1, most_requests))
    rows = draw(st.integers(1, 9))
    tree_slots = draw(st.sampled_from([1, 3, 9, 12, 66]))
    capacity = draw(st.integers(1, most_slots))
    lengths = [draw(st.integers(0, capacity)) for _ in range(batch)]
    bits = [
        [draw(st.integers(0, 2 ** min(tree_slots, capacity - length) - 1)) for _ in range(rows)]
        for length in lengths
    ]
    starts = draw(st.sampled_from([None, [draw(st.integers(0, length)) for length in lengths]]))
    anchored = {}
    if draw(st.booleans()):
        anchored = {
            "anchors": [
                draw(st.sets(st.integers(0, capacity - 1), max_size=20)) for _ in range(batch)
            ],
            "window": draw(st.integers(0, 30)),
            "depth": [[draw(st.integers(-1, 6)) for _ in range(rows)] for _ in range(batch)],
        }
    heads, kv_heads = draw(st.sampled_from([(1, 1), (4, 2), (6, 2), (7, 1)]))
    return Case(
        bits,
        lengths,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([8, 16, 40])),
        capacity=capacity,
        num_words=draw(st.sampled_from([2, 3])),
        starts=starts,
        seed=draw(st.integers(0, 99)),
        **anchored,
    )


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@given(case=drawn_cases())
@settings(max_examples=50, deadline=None)
def test_drawn_cases(backend, case):
    with env.backend(backend):
        case.check()
        clean = case.run()
        poisoned = case.poisoned().run()
    assert torch.equal(clean[0], poisoned[0]) and torch.equal(clean[1], poisoned[1])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_strided_inputs(backend):
    case = Case([tree_bits(BUSHY), tree_bits(BUSHY)], [33, 8])
    slab = torch.full((3, 2, 2, 3, 64, 40), float("nan"))
    case.key, case.value = (
        cache.copy_(old)
        for cache, old in (
            (slab[1, 0, :, 1:, :, 8:24], case.key),
            (slab[1, 1, :, 1:, :, 20:36], case.value),
        )
    )
    case.query = case.query.transpose(1, 2).contiguous().transpose(1, 2)
    query, key, value, ancestors, lens = case.arguments()
    wide_words = torch.zeros(2, 11, 3, dtype=torch.int64)
    wide_words[:, :, 1:2] = ancestors
    with env.backend(backend):
        actual = tree_attention(query, key, value, wide_words[:, :, 1:2], lens, return_lse=True)
    case.check(actual)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", ["one row decodes", "tree off any tile", "ragged"])
def test_out_takes_the_result(name, backend):
    case = CASES[name]
    expected = case.run()
    with env.backend(backend), guard_rows() as guards:
        out = guards.empty(*case.query.shape, name="out")
        lse = guards.empty(*case.query.shape[:3], name="lse")
        actual = case.run(out=(out, lse))
        assert actual[0] is out and actual[1] is lse
        case.check(actual)
        other = torch.full(case.query.transpose(1, 2).shape, float("nan")).transpose(1, 2)
        alone = tree_attention(*case.arguments(), **case.options(), out=other)
        assert alone is other
        torch.testing.assert_close(alone, expected[0])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_scale_is_the_caller_s(backend):
    case = CASES["chain"]
    query, *rest = case.arguments()
    with env.backend(backend):
        actual = tree_attention(query * 3, *rest, scale=16**-0.5 / 3, return_lse=True)
    case.check(actual)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_scores_far_apart_do_not_overflow(backend):
    case = Case([tree_bits(BUSHY)], [600], capacity=640, kv_heads=1)
    case.key[:, :, 600:] *= 300
    with env.backend(backend):
        case.check(largest_score=300.0)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("num_splits", [1, 2, 7, 1000])
def test_splits_change_no_result(num_splits, backend):
    with env.backend(backend):
        CASES["prefix of many scores"].check(
            CASES["prefix of many scores"].run(num_splits=num_splits)
        )


def test_auto_takes_the_fastest_cpu_backend():
    function = TREE_ATTENTION._choose("cpu", CASES["chain"].arguments())
    assert function is TREE_ATTENTION.implementations[CPU_BACKENDS[-1]]
    torch_s = TREE_ATTENTION._choose("cpu", CASES["float64"].arguments())
    assert torch_s is TREE_ATTENTION.implementations["torch"]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("length", [-5, 65, 2**31 - 1])
def test_lengths_outside_the_cache(length, backend):
    case = Case([tree_bits(CHAIN)], [64 if length > 0 else 0])
    query, key, value, ancestors, _ = case.arguments()
    bad = torch.tensor([length], dtype=torch.int32)
    with env.backend(backend), pytest.raises(ValueError, match="tree_attention: prefix_lens"):
        tree_attention(query, key, value, ancestors, bad)
    with env.backend(backend), env.checks(False):
        case.check(tree_attention(query, key, value, ancestors, bad, return_lse=True))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("start, clamped", [(-7, 0), (41, 40), (2**31 - 1, 40)])
def test_starts_outside_the_prefix(start, clamped, backend):
    case = Case([tree_bits(CHAIN)], [40], starts=[clamped])
    bad = torch.tensor([start], dtype=torch.int32)
    with env.backend(backend), pytest.raises(ValueError, match="tree_attention: prefix_starts"):
        tree_attention(*case.arguments(), prefix_starts=bad)
    with env.backend(backend), env.checks(False):
        case.check(tree_attention(*case.arguments(), prefix_starts=bad, return_lse=True))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("bit", [14, 63, 64, 127])
def test_bits_past_the_cache(bit, backend):
    case = Case([[0b1, 0b11 | 1 << bit]], [50], num_words=2)
    with env.backend(backend):
        with pytest.raises(ValueError, match=f"ancestors.*bit {bit} in row 1 of request 0"):
            case.run()
        with env.checks(False):
            case.check()


def _good() -> dict:
    names = ("query", "key", "value", "ancestors", "prefix_lens")
    return dict(zip(names, CASES["chain"].arguments(), strict=True))


BAD_ARGUMENTS = {
    "heads and nodes swapped": ("query", lambda t: t.transpose(1, 2).contiguous(), ValueError),
    "a rank too few": ("query", lambda t: t[0], ValueError),
    "no tensor": ("key", lambda t: t.tolist(), TypeError),
    "another dtype": ("key", lambda t: t.half(), TypeError),
    "integers": ("query", lambda t: t.int(), TypeError),
    "values of another length": ("value", lambda t: t[:, :, 1:], ValueError),
    "heads in no whole groups": ("query", lambda t: t[:, :3], ValueError),
    "a row of words too few": ("ancestors", lambda t: t[:, 1:], ValueError),
    "no words": ("ancestors", lambda t: t[:, :, :0], ValueError),
    "words of 32 bits": ("ancestors", lambda t: t.int(), TypeError),
    "lengths of 64 bits": ("prefix_lens", lambda t: t.long(), TypeError),
    "a length too many": ("prefix_lens", lambda t: t.repeat(2), ValueError),
    "rows not contiguous": ("key", lambda t: t.mT.contiguous().mT, ValueError),
    "words apart": ("ancestors", lambda t: t.repeat(1, 1, 4)[..., ::2], ValueError),
    "another device": ("value", lambda t: t.to("meta"), TypeError),
}


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_are_named(name, checked):
    argument, spoil, error = BAD_ARGUMENTS[name]
    arguments = _good()
    arguments[argument] = spoil(arguments[argument])
    with env.checks(checked), pytest.raises(error, match="tree_attention: "):
        tree_attention(**arguments)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="num_splits must be at least 1, got 0"):
        tree_attention(**_good(), num_splits=0)
    with pytest.raises(TypeError, match="prefix_starts must be int32"):
        tree_attention(**_good(), prefix_starts=torch.zeros(1))
    with pytest.raises(ValueError, match=r"out must be \[B, Hq, T, D\]"):
        tree_attention(**_good(), out=torch.zeros(1, 4, 5, 16))
    with pytest.raises(ValueError, match="given together or not at all, got window"):
        tree_attention(**_good(), window=4)


@pytest.mark.parametrize("argument", ["query", "key", "value"])
def test_gradients_are_refused_by_name(argument):
    arguments = _good()
    arguments[argument] = arguments[argument].clone().requires_grad_()
    with pytest.raises(NotImplementedError, match="tree_attention: .* require grad"):
        tree_attention(**arguments)
    with torch.no_grad():
        case = CASES["chain"]
        assert torch.equal(tree_attention(**arguments), case.run()[0])


def test_words_of_the_oracle():
    assert words_of([1 << 63, 1 << 64 | 5], 2) == [[-(2**63), 0], [5, 1]]


def test_lse_of_two_halves_is_that_of_the_whole():
    case = Case([tree_bits(BUSHY)], [40])
    front = Case([[0] * 11], [25])
    back = Case([tree_bits(BUSHY)], [40], starts=[25])
    for part in (front, back):
        part.query, part.key, part.value = case.query, case.key, case.value
    lse = torch.logaddexp(front.run()[1], back.run()[1])
    assert_close(lse, case.expected()[1], case.run()[1])
