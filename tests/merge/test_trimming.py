"""Which entries a share of a tensor keeps."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from formulas import trimmed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from erestore.merge import tiles, trim
from erestore.merge.trim import Cutoff, cutoff

NUMBERS = st.floats(allow_infinity=True, allow_nan=False, width=64) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324])
HALF = Fraction(1, 2)


def in_tiles(matrix: np.ndarray, density: Fraction, height: int = 1) -> np.ndarray:
    """Cut a matrix as a strategy does, a few rows at a time."""
    found = cutoff(lambda start, stop: matrix[start:stop].copy(), matrix.shape, density)
    parts = [found.trim(matrix[start : start + height].copy(), start) for start in range(0, len(matrix), height)]
    return np.concatenate(parts)


def is_same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other)  # 0.0 and -0.0 alike


@pytest.fixture(params=[1 << 20, 3, 1])
def held(request, monkeypatch):
    """How many entries may be held at a time."""
    monkeypatch.setattr(trim, "HELD", request.param)
    monkeypatch.setattr(trim, "tiles", lambda shape: tiles.tiles(shape, request.param))
    return request.param


@pytest.mark.parametrize("density", [Fraction(1, 5), HALF, Fraction(1, 10**6), Fraction(99, 100)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (9, 7)])
def test_what_is_kept_is_what_sorting_keeps(held, shape, density):
    matrix = np.random.default_rng(1).standard_normal(shape) * 1e-3
    matrix[0, 0] = 0.0
    assert is_same(in_tiles(matrix, density), trimmed(matrix, density))


@given(
    arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=NUMBERS),
    st.fractions(Fraction(1, 50), Fraction(49, 50)),
)
def test_any_numbers_with_few_held(matrix, density):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trim, "HELD", 2)
        assert is_same(in_tiles(matrix, density), trimmed(matrix, density))


def test_of_equal_magnitudes_the_first_are_kept():
    matrix = np.array([[1.0, -1.0, 1.0, 0.5]])
    assert in_tiles(matrix, HALF).tolist() == [[1.0, -1.0, 0.0, 0.0]]
    assert in_tiles(matrix.T, HALF).tolist() == [[1.0], [-1.0], [0.0], [0.0]]


@pytest.mark.parametrize("density", ["0.01", "0.05", "0.2", "0.5"])
@pytest.mark.parametrize("levels", [1, 2, 7])
def test_exactly_as_many_as_asked_for_are_kept_of_few_levels(held, density, levels):
    """A bfloat16 step changes weights by a few units in the last place."""
    rng = np.random.default_rng(levels)
    matrix = rng.choice([-1.0, 1.0], (20, 30)) * rng.integers(1, levels + 1, (20, 30)) * 2.0**-9
    kept = in_tiles(matrix, Fraction(density), height=4)
    assert np.count_nonzero(kept) == int(Fraction(density) * 600)
    assert np.abs(kept[kept != 0]).min() >= np.abs(matrix[kept == 0]).max()


def test_all_is_kept_without_a_pass_at_density_one():
    assert cutoff(None, (5, 5), Fraction(1)) == Cutoff(0, 25)
    matrix = np.array([[0.0, -3.0]])
    assert Cutoff(0, 2).trim(matrix.copy(), 0).tolist() == matrix.tolist()


def test_shares_are_counted_exactly():
    """0.29 * 100 is 28.999... in floats."""
    assert np.count_nonzero(in_tiles(np.arange(1.0, 101.0)[None], Fraction("0.29"))) == 29


def test_nan_is_larger_than_all_else():
    assert np.isnan(in_tiles(np.array([[1e300, np.nan, np.inf, 2.0]]), Fraction(1, 4))).tolist() == [
        [False, True, False, False]
    ]
    assert np.isnan(in_tiles(np.array([[1.0, np.nan], [np.nan, 2.0]]), Fraction(1, 4)))[1].tolist() == [True, False]


def test_a_large_tensor_takes_two_passes_and_holds_little(monkeypatch):
    monkeypatch.setattr(trim, "HELD", 1000)
    matrix, asked = np.random.default_rng(0).standard_normal((100, 100)), []

    def rows(start, stop):
        asked.append(stop - start)
        return matrix[start:stop].copy()

    found = cutoff(rows, (100, 100), Fraction(1, 5))
    assert is_same(found.trim(matrix.copy(), 0), trimmed(matrix, Fraction(1, 5)))
    assert sum(asked) == 200


def test_of_equal_magnitudes_none_are_held(monkeypatch):
    monkeypatch.setattr(trim, "HELD", 2)
    asked = []

    def rows(start, stop):
        asked.append(stop - start)
        return np.full((stop - start, 4), -0.25)

    found = cutoff(rows, (10, 4), HALF)
    assert np.array([found.magnitude], np.uint64).view(np.float64)[0] == 0.25
    assert found.last == 19
    assert sum(asked) == 5 * 10
