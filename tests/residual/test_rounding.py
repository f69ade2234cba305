"""The one rounding, held against integers and fractions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from float_formats import FORMATS, rounded_bits, value_of
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.arrays import BFLOAT16
from erestore.checkpoint.dtypes import array_dtype
from erestore.residual.rounding import round_to

FEW = settings(deadline=None, max_examples=30)
NAMES = pytest.mark.parametrize("name", list(FORMATS))
ANY_FLOAT = st.lists(st.floats(width=64), min_size=1, max_size=20)
ANY_EXPONENT = st.lists(
    st.builds(
        lambda sign, mantissa, exponent: sign * math.ldexp(mantissa, exponent - 52),
        st.sampled_from([1, -1]),
        st.integers(2**52, 2**53 - 1),
        st.integers(-1074, 80),
    ),
    min_size=1,
    max_size=20,
)


def bits_of(array: np.ndarray) -> list[int]:
    """Return the bits of every element as unsigned integers."""
    return np.ascontiguousarray(array).view(f"u{array.itemsize}").reshape(-1).tolist()


def check(values: list[float], name: str) -> None:
    found = bits_of(round_to(np.array(values), array_dtype(name)))
    assert found == [rounded_bits(value, name) for value in values]


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].bits == 8])
def test_every_number_and_every_midpoint_of_eight_bits(name):
    finite = sorted({value for bits in range(256) if math.isfinite(value := value_of(bits, name))})
    values = [sign * finite[-1] * (1 + x) for sign in (1, -1) for x in (0, 0.01, 0.06, 0.07, 0.2, 1e9)]
    for low, high in itertools.pairwise(finite):
        middle = (low + high) / 2
        values += [low, middle, math.nextafter(middle, high), math.nextafter(middle, low), math.nextafter(low, high)]
    check(values, name)


@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_midpoints_of_sixteen_bits_and_what_float32_hides(name):
    """Just beside a midpoint by less than float32 can tell, where rounding twice goes wrong."""
    values = []
    for bits in range(0, FORMATS[name].largest, 37):
        middle = (value_of(bits, name) + value_of(bits + 1, name)) / 2
        values += [middle, middle * (1 + 2**-40), middle * (1 - 2**-40), -middle, -middle * (1 + 2**-40)]
    check(values, name)
    twice = bits_of(np.array(values).astype(np.float32).astype(array_dtype(name)))
    assert twice != [rounded_bits(value, name) for value in values]


@NAMES
@FEW
@given(values=ANY_FLOAT)
def test_any_float64(name, values):
    check(values, name)


@NAMES
@FEW
@given(values=ANY_EXPONENT)
def test_every_exponent(name, values):
    check(values, name)


@NAMES
@pytest.mark.parametrize("copies", [1, 3])  # short tensors take other loops than long ones
def test_nan_infinity_and_zero(name, copies):
    values = [math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1e308, -1e308, 1e308, 5e-324, -5e-324, 1.0]
    check(values * copies, name)


def test_every_nan_becomes_the_same():
    values = np.array([0x7FF8000000000123, -1, 0x7FF0000000000001, 0x7FF0000000000000])
    for name, form in FORMATS.items():
        found = bits_of(round_to(values.view(np.float64), array_dtype(name)))
        assert found == [form.nan] * 3 + [form.largest + form.has_infinity]


def test_views_with_gaps():
    values = np.linspace(-3, 3, 60).reshape(6, 10).T[::2]
    found = round_to(values, BFLOAT16)
    assert found.shape == values.shape
    assert bits_of(found) == [rounded_bits(value, "BF16") for value in values.reshape(-1).tolist()]


@NAMES
@pytest.mark.parametrize("value", [0.0, 1.0, math.nan, 1e-45])
def test_a_scalar_stays_one(name, value):
    found = round_to(np.asarray(value), array_dtype(name))
    assert found.shape == ()
    assert bits_of(found.reshape(1)) == bits_of(round_to(np.array([value]), array_dtype(name)))


def test_a_program_that_raises_on_underflow_is_not_disturbed():
    with np.errstate(all="raise"):
        assert bits_of(round_to(np.array([1e-310]), BFLOAT16)) == [0]


@NAMES
def test_large_arrays_are_rounded_as_small_ones(name):
    """They are rounded in blocks, rows or not."""
    values = np.random.default_rng(0).standard_normal((3, 3 * 70_001, 1))
    values[2, -1] = math.nan
    found = round_to(values, array_dtype(name))
    rows = np.stack([round_to(row, array_dtype(name)) for row in values])
    assert found.shape == values.shape
    assert found.tobytes() == rows.tobytes()
