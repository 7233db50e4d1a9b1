"""The native topk_logprobs against log_softmax in float64 and a stable sort."""

from __future__ import annotations

import pytest
import torch
from emulation import Library
from torch import Tensor

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def expected(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    order = logits.float().argsort(dim=-1, descending=True, stable=True)[:, :k]
    return logits.double().log_softmax(-1).gather(-1, order), order


def assert_topk(library: Library, logits: Tensor, k: int) -> None:
    values, ids = library.ops.topk_logprobs(logits, k)
    exact, order = expected(logits, k)
    assert torch.equal(ids, order)
    assert values.dtype == torch.float32 and bool((values <= 0).all())
    rounding = torch.finfo(torch.float32).eps * exact.abs().clamp(min=1e-30)
    infinite = exact.isinf() & (values.double() == exact)
    assert bool((((values.double() - exact).abs() <= rounding + 1e-7) | infinite).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "vocab", "k"),
    [(1, 1, 1), (3, 7, 7), (2, 511, 8), (2, 512, 1), (2, 513, 64), (1, 8193, 64), (1, 50_000, 10)],
)
def test_topk(library: Library, dtype: torch.dtype, rows: int, vocab: int, k: int) -> None:
    torch.manual_seed(rows * vocab)
    assert_topk(library, (torch.randn(rows, vocab) * 6).to(dtype), k)


def test_more_than_64_is_for_a_cpu(library: Library) -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 513)
    if library.is_cuda_code:
        with pytest.raises(ValueError, match=r"topk_logprobs: k must be in \[0, 64\], got 100"):
            library.ops.topk_logprobs(logits, 100)
    else:
        assert_topk(library, logits, 100)


@pytest.mark.parametrize("place", ["sorted up", "sorted down", "in one tile", "one a tile"])
def test_where_the_best_lie(library: Library, place: str) -> None:
    """Tiles of 4,096 ids, pairs of threads with 64 each: every way the best can be shared out."""
    torch.manual_seed(2)
    logits = torch.randn(1, 20_000)
    if place == "in one tile":
        logits[0, 9000:9064] += 20
    elif place == "one a tile":
        logits[0, [5, 4096, 8192, 12_288, 19_999]] += 20
    else:
        logits = logits.sort(descending=place == "sorted down").values
    for k in (1, 3, 64):
        assert_topk(library, logits, k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_real_vocabulary(library: Library, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    assert_topk(library, (torch.randn(2, 152_064) * 4).to(dtype), 8)


@pytest.mark.parametrize("vocab", [262_144, 262_145])
def test_more_tiles_than_small_ones(library: Library, vocab: int) -> None:
    """Past 64 tiles of 4,096 ids they have twice as many."""
    torch.manual_seed(4)
    logits = torch.randn(1, vocab)
    logits[0, [0, vocab - 1]] += 20
    assert_topk(library, logits, 64)


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_misaligned_rows(library: Library, dtype: torch.dtype, offset: int) -> None:
    torch.manual_seed(offset)
    wide = torch.randn(3, 9001).to(dtype)
    wide[:, :offset] = torch.nan
    assert_topk(library, wide[:, offset:], 5)


@pytest.mark.slow
def test_many_rows_with_many_ties(library: Library) -> None:
    torch.manual_seed(0)
    assert_topk(library, torch.randint(0, 4, (130, 3000)).float(), 17)


@pytest.mark.parametrize("rising", [True, False])
def test_the_maximum_moves(library: Library, rising: bool) -> None:
    """A row whose maximum grows in every block, and one where it never does."""
    logits = torch.linspace(-80, 80, 4000)
    assert_topk(library, (logits if rising else logits.flip(0))[None], 5)


def test_masked_ids_come_last(library: Library) -> None:
    logits = torch.full((1, 1200), -torch.inf)
    logits[0, 700] = 2.0
    logits[0, 1100] = 2.0
    values, ids = library.ops.topk_logprobs(logits, 4)
    assert ids.tolist() == [[700, 1100, 0, 1]]
    assert values[0, :2].tolist() == pytest.approx([-0.6931472, -0.6931472])
    assert values[0, 2:].tolist() == [-torch.inf, -torch.inf]


def test_a_nearly_certain_row_keeps_its_small_remainder(library: Library) -> None:
    logits = torch.zeros(1, 2)
    logits[0, 1] = -20.0
    values, _ = library.ops.topk_logprobs(logits, 1)
    assert values.item() == pytest.approx(-2.0611536e-09, rel=1e-5)


@pytest.mark.parametrize("place", [0, 600])
def test_a_nan_spoils_its_row_alone(library: Library, place: int) -> None:
    logits = torch.zeros(2, 1000)
    logits[0, place] = torch.nan
    values, ids = library.ops.topk_logprobs(logits, 3)
    assert bool(values[0].isnan().all()) and bool((values[1] < 0).all())
    assert bool(((ids >= 0) & (ids < 1000)).all())


def test_rows_may_be_strided_and_guards_stay_unread(library: Library) -> None:
    wide = torch.full((3, 40), torch.nan)
    wide[:, 5:38] = torch.randn(3, 33)
    assert_topk(library, wide[:, 5:38], 6)


@pytest.mark.parametrize(
    ("logits", "k", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), 1, "logits must be Float or Half or BFloat16"),
        (torch.zeros(3), 1, "logits must be"),
        (torch.zeros(2, 3), 4, r"k must be in \[0, 3\], got 4"),
        (torch.zeros(3, 2).t(), 1, "contiguous in its last dim"),
    ],
)
def test_topk_refuses_by_name(library: Library, logits: Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"topk_logprobs: .*{message}"):
        library.ops.topk_logprobs(logits, k)
