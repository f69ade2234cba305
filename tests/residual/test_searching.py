"""Finding the step that just meets a bound."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from erestore.residual.step_search import StepSearch


def search(measure, start, exponent, **options):
    """Do what a caller does; return the best ratio that met the bound, and how many measurements it took."""
    searching = StepSearch(start, exponent, **options)
    best, goes_on, count = None, True, 0
    while goes_on:
        step, ratio = searching.step, measure(searching.step)
        assert step > 0
        assert math.isfinite(step)
        count += 1
        goes_on = searching.observe(ratio)
        if ratio <= 1 and (best is None or ratio > best[1]):
            best = step, ratio
    return best, count


@settings(deadline=None, max_examples=300)
@given(
    exponent=st.floats(0.3, 3),
    guess=st.floats(0.5, 2.5),
    start=st.floats(-3, 3),
    sign=st.sampled_from([1, -1]),
)
def test_a_power_of_the_step_takes_three_measurements(exponent, guess, start, sign):
    best, count = search(lambda step: (step / 7) ** (sign * exponent), 7 * math.exp(start), sign * guess)
    assert best is not None
    assert 0.98 <= best[1] <= 1
    assert count <= 4
    if abs(start) < 0.3 and 0.7 < guess / exponent < 1.4:
        assert count <= 3


def rough(exponent, wave, phase):
    """A monotone measure whose exponent differs from place to place by up to twice `wave` of the mean."""

    def measure(step):
        x = math.log(step)
        return math.exp(exponent * (x + wave * (math.sin(2 * x + phase) - math.sin(phase))))

    return measure


@pytest.mark.parametrize(("wave", "most", "share"), [(0.1, 3.5, 0.995), (0.25, 3.9, 0.95), (0.4, 4.4, 0.75)])
def test_a_rough_monotone_measure_takes_about_four(wave, most, share):
    draw = random.Random(0)
    found = []
    for _ in range(1000):
        sign = draw.choice([1, -1])
        measure = rough(sign * draw.uniform(0.5, 2), wave, draw.uniform(0, 7))
        best, count = search(measure, math.exp(draw.uniform(-1.2, 1.2)), sign * 1.2)
        assert best is not None
        found.append((best[1], count))
    assert sum(count for _, count in found) < most * len(found)
    assert max(count for _, count in found) <= 7
    assert sum(ratio >= 0.98 for ratio, _ in found) > share * len(found)


def test_a_bound_below_what_any_step_reaches_is_given_up_soon():
    """A plateau just above the bound: each move has to be longer than the one before."""
    best, count = search(lambda step: step**1.3 + 1.02, 1.0, 1.2)
    assert best is None
    assert count <= 15


@settings(deadline=None, max_examples=300)
@given(stairs=st.lists(st.floats(0.01, 100), min_size=1, max_size=12), start=st.floats(-4, 4))
def test_whatever_the_measure_a_step_that_misses_is_never_the_answer(stairs, start):
    """Stairs, with jumps that no step can meet."""
    levels = sorted(stairs)
    assume(levels[0] <= 1)

    def measure(step):
        return levels[max(0, min(len(levels) - 1, math.floor(math.log(step)) + len(levels) // 2))]

    best, count = search(measure, math.exp(start), 1.2)
    assert best is not None
    assert best[1] <= 1
    assert measure(best[0]) == best[1]
    assert count <= 16


def test_a_bound_that_nothing_meets_is_given_up():
    best, count = search(lambda _: 3.0, 1.0, 1.2)
    assert best is None
    assert count <= 15


def test_a_measure_that_is_zero_or_below_the_bound_everywhere_ends():
    best, count = search(lambda _: 0.0, 1.0, 1.2)
    assert best is not None
    assert count <= 5


@pytest.mark.parametrize("attempts", [2, 3, 8])
def test_no_more_measurements_than_allowed_once_the_bound_is_met(attempts):
    best, count = search(lambda step: 0.5 if step < 1 else 2.0, 0.9, 1.2, attempts=attempts)
    assert best is not None
    assert count <= attempts


def test_the_tolerance_is_what_may_be_left():
    best, _ = search(lambda step: step**1.5, 0.1, 1.2, tolerance=0.005)
    assert best is not None
    assert 0.995 <= best[1] <= 1
