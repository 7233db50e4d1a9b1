"""attention_mass against its definition, on every backend of a CPU."""

import math

import pytest
import torch
from attention_oracle import Case
from dispatch import compiles_once, opcheck
from paged_cases import Pages
from test_attention_memory import peak

from sparrow_kernels.ops import env, native
from sparrow_kernels.ops.attention import attention_mass
from sparrow_kernels.ops.attention.ops import ATTENTION_MASS
from sparrow_kernels.testing import assert_close

BACKENDS = ["reference", *([] if native.unavailable() else ["native"])]
ROWS = [0, 0, 0, 0, 0]  # they see no tree
CASES = {
    "one row": Case([[0]], [37]),
    "ragged": Case([ROWS] * 3, [64, 0, 33]),
    "group 7": Case([ROWS], [50], heads=14, kv_heads=2),
    "group 1": Case([ROWS], [50], heads=2, kv_heads=2),
    "head dim 72": Case([ROWS], [50], head_dim=72),
    "head dim 128": Case([ROWS], [64], head_dim=128),
    "more slots than a span": Case([ROWS] * 2, [1500, 1029], capacity=1536, kv_heads=1),
    "more rows than a pass": Case([[0] * 130], [70], capacity=80, heads=6, kv_heads=2),
    "float16": Case([ROWS], [50], dtype=torch.float16),
    "bfloat16": Case([ROWS], [50], dtype=torch.bfloat16),
    "float64": Case([ROWS], [50], dtype=torch.float64),
}


def arguments(case: Case, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    query, key, _, _, lens = case.arguments()
    return query.to(device), key.to(device), lens.to(device)


def expected(case: Case, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """From the definition: a softmax over the committed slots, added up."""
    group = case.heads // case.kv_heads
    mass = torch.zeros(len(case.rows), case.kv_heads, case.capacity, dtype=dtype)
    for b, length in enumerate(case.prefix_lens):
        keys = case.key[b, :, :length].to(dtype).repeat_interleave(group, 0)
        weights = (case.query[b].to(dtype) @ keys.mT * case.head_dim**-0.5).softmax(-1)
        mass[b, :, :length] = weights.unflatten(0, (case.kv_heads, group)).sum((1, 2))
    return mass


def hold(case: Case, mass: torch.Tensor) -> None:
    """To the definition: no further off than twice a softmax in float32 is."""
    rows = len(case.rows[0]) * case.heads // case.kv_heads
    assert mass.dtype == torch.float32
    assert_close(mass, expected(case), expected(case, torch.float32), name="mass", summands=4.0)
    wanted = torch.tensor([float(rows * (length > 0)) for length in case.prefix_lens])
    torch.testing.assert_close(mass.sum(-1), wanted[:, None].expand(mass.shape[:2]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sums_of_softmax_weights(backend):
    """With NaN behind the prefix; a KV head's slots sum to its rows. Pages give the same bits."""
    with env.backend(backend):
        for number, case in enumerate(CASES.values()):
            query, key, lens = arguments(case.poisoned())
            mass = attention_mass(query, key, lens)
            hold(case, mass)
            assert torch.equal(
                attention_mass(query, key, lens, sum_heads=True), mass.sum(1, keepdim=True)
            )
            pages = Pages(case, (1, 16, 64, 256)[number % 4])
            paged = attention_mass(query, pages.key, lens, block_table=pages.table)
            assert torch.equal(paged[..., : case.capacity], mass)
            assert paged.shape[2] == pages.slots and paged[..., case.capacity :].sum() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_of_rows_that_see_more(backend):
    """By their own log-sum-exp, and any scale; a row of -inf gives nothing."""
    case = CASES["ragged"]
    query, key, lens = arguments(case)
    with env.backend(backend):
        for scale in (0.7, -0.3, 0.0):
            usual = attention_mass(query, key, lens, scale=scale)
            keys = key.repeat_interleave(2, 1)[:1].double()
            scores = query[:1].double() @ keys.mT * scale
            exact = scores.softmax(-1).view(1, 2, 10, 64).sum(2)
            in_float = query[:1] @ keys.float().mT * scale
            weights = (in_float - in_float.logsumexp(-1, keepdim=True)).exp()
            rounded = weights.view(1, 2, 10, 64).sum(2)
            assert_close(usual[:1], exact, rounded, summands=4.0)
            lse = scores.logsumexp(-1).float()
            more = (lse + math.log(4.0)).expand(3, -1, -1).contiguous()
            quarter = attention_mass(query, key, lens, scale=scale, lse=more)
            assert_close(quarter[:1], exact / 4, rounded / 4, summands=4.0)
            more[0, :, 1:] = -math.inf
            first = attention_mass(query, key, lens, scale=scale, lse=more)
            alone = scores[:, :, :1].softmax(-1).view(1, 2, 2, 64).sum(2) / 4
            assert_close(first[:1], alone, summands=4.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_bits_on_any_number_of_threads(backend):
    query, key, lens = arguments(CASES["more slots than a span"])
    threads = torch.get_num_threads()
    try:
        masses = []
        for count in (1, 3):
            torch.set_num_threads(count)
            with env.backend(backend):
                lse = torch.zeros(query.shape[:3])
                masses.append(attention_mass(query, key, lens, lse=lse))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*masses)


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_does_not_grow_with_rows_times_slots(backend):
    """Eight times as many pairs take as much, but for what is given back or kept a row: N and T."""
    peaks = []
    for rows, slots in ((512, 4096), (1024, 16384)):
        query, key = torch.randn(1, 2, rows, 16), torch.randn(1, 1, slots, 16)
        lens = torch.tensor([slots], dtype=torch.int32)
        with env.backend(backend):
            peaks.append(peak(lambda: attention_mass(query, key, lens)))  # noqa: B023
        linear = 4 * slots + 2 * rows * 2 * (16 + 2) * 4
        peaks[-1] -= linear
    assert peaks[1] < max(1.2 * peaks[0], peaks[0] + 2**20), peaks


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_and_one_graph(backend):
    case = CASES["ragged"]
    pages = Pages(case, 16)
    query, key, lens = arguments(case)
    with env.checks(False):  # opcheck's own lengths
        opcheck(ATTENTION_MASS, backend, query, key, lens, 0.25, None, None)
        opcheck(
            ATTENTION_MASS, backend, query, pages.key.nan_to_num(), lens, 0.25, pages.table, None
        )

    def calls(rows, length):
        return lambda: arguments(Case([[0] * rows], [length]))

    with env.backend(backend):
        compiles_once(attention_mass, [calls(5, 20), calls(7, 0), calls(11, 33)])


def test_what_does_not_fit_is_named():
    query, key, lens = arguments(CASES["ragged"])
    pages = Pages(CASES["ragged"], 16)
    table = pages.table.clone()
    with pytest.raises(ValueError, match="attention_mass: prefix_lens must be 0..64, got 65"):
        attention_mass(query, key, lens + 1)
    with pytest.raises(ValueError, match="attention_mass: block_table must be a page in 0"):
        table[0, 3] = 99
        attention_mass(query, pages.key, lens, block_table=table)
    with pytest.raises(ValueError, match=r"lse must be \[B, Hq, T\]"):
        attention_mass(query, key, lens, lse=torch.zeros(3, 2, 5))
    with pytest.raises(TypeError, match="lse must be float32"):
        attention_mass(query, key, lens, lse=torch.zeros(3, 4, 5).double())
    with pytest.raises(NotImplementedError, match="must not require grad"):
        attention_mass(query.clone().requires_grad_(), key, lens)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_log_sum_exp_that_is_none_is_named(backend):
    query, key, lens = (each.detach() for each in arguments(CASES["ragged"]))
    with env.backend(backend):
        for bad in (math.nan, math.inf):
            lse = torch.full(query.shape[:3], -math.inf)
            assert not attention_mass(query, key, lens, lse=lse).any()
            lse[2, 1, 3] = bad
            message = (
                rf"attention_mass: lse must be a number or -inf, got lse\[2\]\[1\]\[3\] = {bad}"
            )
            with env.checks(True), pytest.raises(ValueError, match=message):
                attention_mass(query, key, lens, lse=lse)


@pytest.mark.parametrize("backend", BACKENDS)
def test_unchecked_lengths_and_pages_are_bounded(backend):
    case = CASES["one row"]
    query, key, _ = arguments(case)
    with env.backend(backend), env.checks(False):
        for length, full in ((-5, 0.0), (2**31 - 1, 2.0)):
            lens = torch.tensor([length], dtype=torch.int32)
            assert attention_mass(query, key, lens).sum(-1).allclose(torch.tensor(full))
            table = torch.tensor([[-1, 2**31 - 1, 0, 0]], dtype=torch.int32)
            paged = attention_mass(query, key.view(4, 2, 16, 16), lens, block_table=table)
            assert paged.sum(-1).allclose(torch.tensor(full))
