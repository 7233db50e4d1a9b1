"""The shared test rules themselves: what they admit and what they report."""

import math

import pytest
import torch

from sparrow_kernels.testing import assert_close, guard_rows, is_poison, poison, poison_value


def test_twice_the_error_of_pytorch_is_admitted_and_three_times_is_not():
    exact = torch.linspace(1, 2, 64, dtype=torch.float64)
    rounded = (exact + 1e-3).float()
    assert_close((exact + 1.9e-3).float(), exact, rounded)
    with pytest.raises(AssertionError, match="admitted"):
        assert_close((exact + 3e-3).float(), exact, rounded)


def test_one_wrong_element_is_named():
    exact = torch.ones(3, 4, 5, dtype=torch.float64)
    actual = exact.float()
    actual[1, 2, 3] = 1.5
    with pytest.raises(AssertionError, match=r"scores: worst at \(1, 2, 3\): got 1.5, expected 1"):
        assert_close(actual, exact, name="scores")


def test_a_small_error_everywhere_fails_by_its_rms():
    exact = torch.ones(1000, dtype=torch.float64)
    exact[0] = 1000.0  # admits 2e-4 anywhere, but not everywhere
    rounded = exact.float()
    actual = rounded.clone()
    actual[5] += 1e-4
    assert_close(actual, exact, rounded)
    with pytest.raises(AssertionError, match="RMS"):
        assert_close(rounded + 2e-4, exact, rounded)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 0.0])
def test_specials_stand_where_they_are_expected(wrong):
    exact = torch.tensor([1.0, -math.inf, 2.0], dtype=torch.float64)
    assert_close(exact.float(), exact)
    actual = exact.float()
    actual[1] = wrong
    if wrong != -math.inf:
        with pytest.raises(AssertionError, match=r"at \(1,\)"):
            assert_close(actual, exact)
    actual = exact.float()
    actual[0] = wrong
    with pytest.raises(AssertionError):
        assert_close(actual, exact)


def test_shapes_and_dtypes_must_agree():
    exact = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(AssertionError, match="shape"):
        assert_close(torch.zeros(3, 2), exact)
    with pytest.raises(TypeError, match="float64"):
        assert_close(torch.zeros(2, 3), exact.float())
    with pytest.raises(TypeError, match="rounded"):
        assert_close(torch.zeros(2, 3), exact, exact)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.int32, torch.int64, torch.uint8, torch.bool]
)
def test_poison_is_recognised(dtype):
    buffer = poison(3, 2, dtype=dtype)
    assert bool(is_poison(buffer).all())
    buffer[1, 0] = 0
    assert is_poison(buffer).tolist() == [[True, True], [False, True], [True, True]]


def test_integer_poison_is_the_lowest_value():
    assert poison_value(torch.int32) == torch.iinfo(torch.int32).min


@pytest.mark.parametrize("offset", [-1, 6])
def test_a_write_past_a_buffer_is_caught(offset):
    with pytest.raises(AssertionError, match="cache: something wrote"):  # noqa: SIM117
        with guard_rows() as guards:
            buffer = guards.empty(2, 3, dtype=torch.int32, name="cache")
            buffer.as_strided((1,), (1,), buffer.storage_offset() + offset).fill_(7)


def test_writes_inside_a_buffer_pass():
    with guard_rows() as guards:
        copied = guards.copy(torch.arange(6.0).view(2, 3))
        assert copied.tolist() == [[0, 1, 2], [3, 4, 5]]
        copied.zero_()
