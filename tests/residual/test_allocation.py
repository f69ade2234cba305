"""Rank allocations: budgets, optimality, and the corners of the paper's route."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.residual.allocation import ALLOCATIONS, _fit, budget, ere, greedy, uniform


def spent(ranks, shapes):
    return sum(r * sum(shape) for r, shape in zip(ranks, shapes, strict=True))


def error(ranks, spectra):
    return sum(float(np.square(values[r:]).sum()) for r, values in zip(ranks, spectra, strict=True))


def power_law(size, exponent, scale=1.0):
    return scale * np.arange(1, size + 1, dtype=np.float64) ** -exponent


@st.composite
def layers(draw, largest=8, least=1):
    shapes = draw(st.lists(st.tuples(st.integers(1, largest), st.integers(1, largest)), min_size=least, max_size=4))
    spectra = []
    for shape in shapes:
        values = draw(st.lists(st.integers(0, 1000), min_size=min(shape), max_size=min(shape)))
        spectra.append(np.sort(np.array(values, dtype=np.float64) / 100)[::-1])
    return spectra, shapes


@given(layers(least=0), st.integers(0, 12), st.floats(0, 1), st.sampled_from(sorted(ALLOCATIONS)))
@settings(max_examples=300, deadline=None)
def test_every_allocation_is_feasible(model, rank, alpha, name):
    spectra, shapes = model
    ranks = ALLOCATIONS[name](spectra, shapes, rank, alpha)
    assert len(ranks) == len(shapes)
    assert all(type(r) is int and 0 <= r <= np.count_nonzero(v) for r, v in zip(ranks, spectra, strict=True))
    assert spent(ranks, shapes) <= budget(shapes, rank)


@given(layers(largest=4), st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_greedy_is_the_optimum_of_what_it_spends(model, parameters):
    spectra, shapes = model
    ranks = greedy(spectra, shapes, parameters)
    assert spent(ranks, shapes) <= parameters
    used = spent(ranks, shapes)
    choices = itertools.product(*(range(len(values) + 1) for values in spectra))
    best = min(error(choice, spectra) for choice in choices if spent(choice, shapes) <= used)
    assert error(ranks, spectra) == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_greedy_stops_at_the_first_component_that_does_not_fit():
    # Gains an element: 9/10, 4/10, 1/4. The budget fits the first and the third.
    spectra = [np.array([3.0, 2.0]), np.array([1.0, 0.5])]
    assert greedy(spectra, [(5, 5), (2, 2)], 14) == [1, 0]
    assert greedy(spectra, [(5, 5), (2, 2)], 24) == [2, 1]


def test_greedy_takes_equal_gains_in_order_of_layers():
    assert greedy([np.array([2.0, 1.0, 1.0])] * 100, [(3, 3)] * 100, 100 * 6 + 18) == [3, 2] + [1] * 98


def test_greedy_counts_what_a_component_costs():
    assert greedy([np.array([1.0, 0, 0, 0]), np.array([0.9, 0.9])], [(4, 4), (2, 2)], 8) == [0, 2]


def test_exponential_tails_are_solved_exactly():
    # f(r) = exp(a r + b) is what the fit assumes; then the optimum has equal slopes per parameter, and the relaxed
    # ranks follow by hand: r2 - r1 = log(4) / 0.1 with equal costs.
    size = 400
    tails = np.exp(-0.1 * np.arange(size + 1))
    values = np.sqrt(tails[:-1] - tails[1:])
    values[-1] = math.sqrt(tails[-2])  # the last tail must be zero
    spectra, shapes = [values, 2 * values], [(size, size)] * 2
    ranks = ere(spectra, shapes, 60, alpha=0.0)
    assert sum(ranks) == 120
    assert ranks[1] - ranks[0] == pytest.approx(math.log(4) / 0.1, abs=1)
    assert abs(error(ranks, spectra) / error(greedy(spectra, shapes, budget(shapes, 60)), spectra) - 1) < 0.01


def test_fit_is_least_squares_of_the_logarithm():
    values = power_law(12, 0.8, 3e-5)
    tails = np.array([np.square(values[r:]).sum() for r in range(12)])
    slope, offset = _fit(values)
    expected = np.polyfit(np.arange(12), np.log(tails), 1)
    assert (slope, offset) == pytest.approx(tuple(expected), rel=1e-9)
    assert _fit(np.zeros(4)) is None
    assert _fit(np.array([1.0, 0.0])) is None


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_scale_of_everything_does_not_matter(alpha):
    shapes = [(64, 64), (64, 256), (256, 64), (100, 20)]
    spectra = [power_law(min(s), e) for s, e in zip(shapes, (0.5, 1.0, 0.3, 2.0), strict=True)]
    ranks = ere(spectra, shapes, 8, alpha)
    for scale in (1e-12, 1e-3, 1e9):
        assert ere([scale * values for values in spectra], shapes, 8, alpha) == ranks


def test_alpha_one_is_uniform_and_alpha_zero_may_starve_a_layer():
    shapes = [(32, 32), (32, 32)]
    spectra = [power_law(32, 0.5, 100.0), power_law(32, 0.5, 1e-6)]
    assert ere(spectra, shapes, 4, 1.0) == uniform(spectra, shapes, 4) == [4, 4]
    assert ere(spectra, shapes, 4, 0.0) == [8, 0]
    assert ere(spectra, shapes, 4, 0.5) == [6, 2]


def test_more_important_layers_get_more():
    shapes = [(48, 48)] * 3
    spectra = [power_law(48, 0.6, scale) for scale in (1.0, 2.0, 4.0)]
    ranks = ere(spectra, shapes, 10)
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[2]


def test_layers_without_a_slope():
    shapes = [(10, 10), (10, 10), (10, 10)]
    flat = power_law(10, 0.3)
    single, zero = np.zeros(10), np.zeros(10)
    single[0] = 50.0
    assert ere([single, zero, flat], shapes, 3, 0.0) == [1, 0, 8]
    single[0] = 1e-9
    assert ere([single, zero, flat], shapes, 3, 0.0) == [0, 0, 9]
    assert ere([zero, zero], shapes[:2], 3) == [0, 0]
    assert ere([], [], 3) == []


def test_a_budget_beyond_everything_gives_full_rank():
    shapes = [(5, 9), (4, 4)]
    spectra = [power_law(5, 1.0), power_law(4, 2.0)]
    for name in ALLOCATIONS:
        assert ALLOCATIONS[name](spectra, shapes, 99, 0.5) == [5, 4]


def test_trimming_takes_the_least_valuable_rank_of_the_first_layer():
    # Relaxed ranks are 5/3 three times, rounded to 2: one more than the budget of 5.
    shapes = [(6, 6)] * 5
    values, zero = power_law(6, 0.4), np.zeros(6)
    assert ere([values, values, values, zero, zero], shapes, 1, 0.0) == [1, 2, 2, 0, 0]
    assert ere([1.001 * values, values, values, zero, zero], shapes, 1, 0.0) == [2, 1, 2, 0, 0]
