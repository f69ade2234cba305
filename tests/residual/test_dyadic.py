"""Integers times powers of two."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erestore.errors import CorruptionError
from erestore.residual.dyadic import EXPONENT_LIMIT, Dyadic, nearest, read


@given(value=st.floats(1e-200, 1e200), sign=st.sampled_from([1, -1]), bits=st.integers(1, 24))
def test_the_nearest_is_within_half_a_unit_and_reduced(value, sign, bits):
    found = nearest(sign * value, bits)
    assert abs(found.mantissa) <= 1 << bits
    assert found.mantissa % 2 == 1
    assert abs(Fraction(found.value) - Fraction(sign * value)) <= Fraction(value) / 2**bits
    assert read(list(found), bits) == found


@given(mantissa=st.integers(-(2**24), 2**24), exponent=st.integers(-EXPONENT_LIMIT, EXPONENT_LIMIT))
def test_values_are_exact(mantissa, exponent):
    assert Fraction(Dyadic(mantissa, exponent).value) == mantissa * Fraction(2) ** exponent


def test_what_is_too_small_is_nothing():
    assert nearest(0.0, 24) == nearest(1e-300, 24) == Dyadic(0, 0)


@pytest.mark.parametrize(
    "stored", [[1], [1, 2, 3], None, [1.0, 2], [True, 2], [2**24 + 1, 0], [1, EXPONENT_LIMIT + 1], [1, -901], "ab"]
)
def test_anything_else_is_refused(stored):
    with pytest.raises(CorruptionError):
        read(stored, 24)
