"""The magnitude that a share of the entries reaches."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from erestore.merge import tiles, trimming
from erestore.merge.trimming import threshold

NUMBERS = st.floats(allow_infinity=True, allow_nan=False, width=64) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324])


def largest(matrix: np.ndarray, density: Fraction) -> float:
    count = max(1, int(density * matrix.size))
    return float(np.sort(np.abs(matrix), axis=None)[::-1][count - 1])


@pytest.fixture(params=[1 << 20, 3, 1])
def held(request, monkeypatch):
    """How many entries may be held at a time."""
    monkeypatch.setattr(trimming, "HELD", request.param)
    monkeypatch.setattr(trimming, "tiles", lambda shape: tiles.tiles(shape, request.param))
    return request.param


@pytest.mark.parametrize("density", [Fraction(1, 5), Fraction(1, 2), Fraction(1, 10**6), Fraction(99, 100)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (9, 7)])
def test_the_threshold_is_that_of_sorting(held, shape, density):
    matrix = np.random.default_rng(1).standard_normal(shape) * 1e-3
    matrix[0, 0] = 0.0
    assert threshold(lambda a, b: matrix[a:b].copy(), shape, density) == largest(matrix, density)


@given(
    arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=NUMBERS),
    st.fractions(Fraction(1, 50), Fraction(49, 50)),
)
def test_the_threshold_of_any_numbers_with_few_held(matrix, density):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trimming, "HELD", 2)
        found = threshold(lambda a, b: matrix[a:b].copy(), matrix.shape, density)
    count = max(1, int(density * matrix.size))
    assert found == (0.0 if count == matrix.size else largest(matrix, density))


def test_ties_are_kept_together():
    matrix = np.array([[1.0, -1.0, 1.0, 0.5]])
    least = threshold(lambda a, b: matrix[a:b].copy(), (1, 4), Fraction(1, 2))
    assert trimming.trim(matrix.copy(), least).tolist() == [[1.0, -1.0, 1.0, 0.0]]


def test_all_is_kept_without_a_pass_at_density_one():
    assert threshold(None, (5, 5), Fraction(1)) == 0.0


def test_shares_are_counted_exactly():
    """0.29 * 100 is 28.999... in floats."""
    matrix = np.arange(1.0, 101.0)[None]
    assert threshold(lambda a, b: matrix[a:b].copy(), (1, 100), Fraction("0.29")) == 72.0


def test_a_large_tensor_takes_two_passes_and_holds_little(monkeypatch):
    monkeypatch.setattr(trimming, "HELD", 1000)
    matrix, asked = np.random.default_rng(0).standard_normal((100, 100)), []

    def rows(start, stop):
        asked.append(stop - start)
        return matrix[start:stop].copy()

    assert threshold(rows, (100, 100), Fraction(1, 5)) == largest(matrix, Fraction(1, 5))
    assert sum(asked) == 200


def test_of_equal_magnitudes_none_are_held(monkeypatch):
    monkeypatch.setattr(trimming, "HELD", 2)
    asked = []

    def rows(start, stop):
        asked.append(stop - start)
        return np.full((stop - start, 4), -0.25)

    assert threshold(rows, (10, 4), Fraction(1, 2)) == 0.25
    assert sum(asked) == 4 * 10
