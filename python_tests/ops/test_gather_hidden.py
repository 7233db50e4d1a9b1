"""`gather_hidden` against plain indexing, row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import each_backend, strided

from sparrow_kernels import gather_hidden
from sparrow_kernels.ops import env
from sparrow_kernels.ops.gather.ops import GATHER_HIDDEN
from sparrow_kernels.testing import guard_rows

RUNS = each_backend(GATHER_HIDDEN)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def expected_row(states: list[torch.Tensor], b: int, row: int) -> list[float]:
    zeros = [0.0] * states[0].shape[2]
    is_row = 0 <= row < states[0].shape[1]
    return [x for state in states for x in (state[b, row].tolist() if is_row else zeros)]


def expect(out: torch.Tensor, states: list[torch.Tensor], index: torch.Tensor) -> None:
    assert out.dtype == states[0].dtype
    assert out.tolist() == [
        [expected_row(states, b, row) for row in rows] for b, rows in enumerate(index.tolist())
    ]


@RUNS
@given(
    batch=st.integers(0, 3), rows=st.integers(1, 6), hidden=st.integers(1, 9),
    layers=st.integers(1, 3), gathered=st.integers(0, 5), dtype=st.sampled_from(DTYPES),
    data=st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_drawn_rows(
    backend: str, batch: int, rows: int, hidden: int, layers: int, gathered: int,
    dtype: torch.dtype, data: st.DataObject,
) -> None:  # fmt: skip
    states = [torch.randn(batch, rows, hidden).to(dtype) for _ in range(layers)]
    row = st.lists(st.integers(-1, rows - 1), min_size=gathered, max_size=gathered)
    drawn = [data.draw(row) for _ in range(batch)]
    index = torch.tensor(drawn, dtype=torch.int32).reshape(batch, gathered)
    with env.backend(backend):
        expect(gather_hidden(states, index), states, index)


@RUNS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layers_behind_strides_of_their_own(backend: str, dtype: torch.dtype) -> None:
    slab = torch.randn(2, 7, 3, 5).to(dtype)
    states = [slab[:, :, 1], strided(torch.randn(2, 7, 5).to(dtype)), slab[:, :, 2]]
    index = strided(torch.tensor([[6, 0, -1, 3], [2, 2, 5, -1]], dtype=torch.int32))
    with env.backend(backend):
        expect(gather_hidden(states, index), states, index)


@RUNS
def test_out_is_filled_between_guards_and_through_strides(backend: str) -> None:
    states = [torch.randn(2, 7, 5) for _ in range(3)]
    index = torch.tensor([[6, 0, -1], [2, -1, 5]], dtype=torch.int32)
    with guard_rows() as guards, env.backend(backend):
        out = guards.empty(2, 3, 15)
        assert gather_hidden(states, index, out=out) is out
        expect(out, states, index)
        wide = guards.empty(2, 6, 20)
        gather_hidden(states, index, out=wide[:, ::2, 2:17])
        expect(wide[:, ::2, 2:17], states, index)
        untouched = wide.clone()
        untouched[:, ::2, 2:17] = torch.nan
        assert untouched.isnan().all()


@RUNS
@pytest.mark.parametrize("row", [-2, 7, -(2**31), 2**31 - 1])
def test_indices_out_of_range(backend: str, row: int) -> None:
    with guard_rows() as guards:
        states = [guards.copy(torch.randn(2, 7, 5)) for _ in range(2)]
        index = torch.tensor([[1, 2], [row, 3]], dtype=torch.int32)
        with pytest.raises(ValueError, match=rf"gather_hidden: index .* index\[1\]\[0\] = {row}$"):
            gather_hidden(states, index)
        with env.backend(backend), env.checks(False):
            expect(gather_hidden(states, index), states, index)


def test_wrong_kinds_are_refused() -> None:
    states, index = [torch.zeros(2, 7, 5)] * 2, torch.zeros(2, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match="states must be at least one layer, got none"):
        gather_hidden([], index)
    with pytest.raises(TypeError, match="states must be a sequence of tensors"):
        gather_hidden(states[0], index)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"states\[1\] must be \[2, 7, 5\], as the first layer"):
        gather_hidden([states[0], torch.zeros(2, 7, 4)], index)
    with pytest.raises(TypeError, match=r"states\[1\] must be torch.float32 on cpu"):
        gather_hidden([states[0], states[0].half()], index)
    with pytest.raises(ValueError, match=r"states\[0\] must be \[B, R, H\] = \[2, R, H\], got"):
        gather_hidden([torch.zeros(3, 7, 5)], index)
    with pytest.raises(TypeError, match="index must be int32, got int64"):
        gather_hidden(states, index.long())
    out = torch.full((2, 3, 9), torch.nan)
    with pytest.raises(ValueError, match="out must be"):
        gather_hidden(states, index, out=out)
    with pytest.raises(TypeError, match="out must be float32, got float16"):
        gather_hidden(states, index, out=torch.zeros(2, 3, 10).half())
    assert out.isnan().all()
