"""The one rounding, held against integers and fractions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erestore.residual.rounding import round_to
from float_formats import FORMATS, bits_of, rounded_bits

DTYPES = pytest.mark.parametrize("dtype", list(FORMATS), ids=str)


def _doubles(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [dtype for dtype in FORMATS if dtype.itemsize == 1], ids=str)
def test_every_number_and_every_midpoint_of_eight_bits(dtype):
    finite = sorted({float(v) for v in torch.arange(256).to(torch.uint8).view(dtype).to(torch.float64) if v.isfinite()})
    values = []
    for low, high in itertools.pairwise(finite):
        middle = (low + high) / 2
        values += [low, middle, math.nextafter(middle, high), math.nextafter(middle, low), math.nextafter(low, high)]
    values += [finite[-1], *(sign * finite[-1] * (1 + x) for sign in (1, -1) for x in (0.01, 0.06, 0.07, 0.2, 1e9))]
    assert bits_of(round_to(_doubles(values), dtype)) == [rounded_bits(value, dtype) for value in values]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_midpoints_of_sixteen_bits_and_what_float32_hides(dtype):
    """Just beside a midpoint by less than float32 can tell, where rounding twice goes wrong."""
    steps = range(0, 0x7F80 if dtype == torch.bfloat16 else 0x7C00, 37)
    lows = torch.tensor(list(steps), dtype=torch.int16).view(dtype).to(torch.float64).tolist()
    highs = torch.tensor([bits + 1 for bits in steps], dtype=torch.int16).view(dtype).to(torch.float64).tolist()
    values = []
    for low, high in zip(lows, highs, strict=True):
        if math.isinf(high):
            continue
        middle = (low + high) / 2
        values += [middle, middle * (1 + 2**-40), middle * (1 - 2**-40), -middle, -middle * (1 + 2**-40)]
    doubles = _doubles(values)
    expected = [rounded_bits(value, dtype) for value in values]
    assert bits_of(round_to(doubles, dtype)) == expected
    assert bits_of(doubles.to(torch.float32).to(dtype)) != expected  # what the test is about


@DTYPES
@given(values=st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_any_float64(dtype, values):
    assert bits_of(round_to(_doubles(values), dtype)) == [rounded_bits(value, dtype) for value in values]


@DTYPES
@given(
    values=st.lists(
        st.tuples(st.sampled_from([1, -1]), st.integers(2**52, 2**53 - 1), st.integers(-1074, 80)), max_size=20
    )
)
def test_every_exponent(dtype, values):
    numbers = [sign * math.ldexp(mantissa, exponent - 52) for sign, mantissa, exponent in values]
    assert bits_of(round_to(_doubles(numbers), dtype)) == [rounded_bits(value, dtype) for value in numbers]


@DTYPES
def test_nan_infinity_and_zero(dtype):
    values = [math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1e308, -1e308, 1e308, 5e-324, -5e-324, 1.0]
    for count in (1, 3):  # short tensors take other loops than long ones
        assert bits_of(round_to(_doubles(values * count), dtype)) == [rounded_bits(value, dtype) for value in values] * count


def test_float64_keeps_every_number_and_has_one_nan():
    values = torch.tensor([0x7FF8000000000123, -1, 0x7FF0000000000000, 5, -(2**63)], dtype=torch.int64)
    assert bits_of(round_to(values.view(torch.float64), torch.float64)) == [
        0x7FF8000000000000,
        0x7FF8000000000000,
        0x7FF0000000000000,
        5,
        2**63,
    ]


def test_views_with_gaps():
    values = torch.linspace(-3, 3, 60, dtype=torch.float64).view(6, 10).T[::2]
    assert torch.equal(round_to(values, torch.bfloat16), round_to(values.contiguous(), torch.bfloat16))
