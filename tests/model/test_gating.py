"""The search for the largest step that a gate lets through."""

from __future__ import annotations

import pytest

from erestore.encoding.gate import SMALLEST_ERROR, GateSearch


def searched(largest: float, *, exponent: float = 1.2) -> tuple[list[float], list[float]]:
    """Return the steps that were tried, and those that passed, where what is up to `largest` does; sizes are 1 / step."""
    search, tried = GateSearch(1.0), []
    goes_on = True
    while goes_on:
        step = search.step
        tried.append(step)
        goes_on = search.observe(round(1e9 / step), 0.01 * step**exponent, passed=step <= largest)
    return tried, [step for step in tried if step <= largest]


@pytest.mark.parametrize("largest", [0.02, 0.3, 0.99, 1.0, 1.01, 3.0, 17.0, 25.9])
def test_it_comes_within_three_per_cent_in_eleven_attempts(largest: float) -> None:
    tried, passed = searched(largest)
    assert len(tried) <= 11
    assert largest / 1.031 < max(passed) <= largest


def test_far_away_it_comes_as_near_as_it_can() -> None:
    tried, passed = searched(0.001)
    assert len(tried) == 11
    assert 0.001 / 1.2 < max(passed) <= 0.001


def test_nothing_is_tried_below_the_smallest_error() -> None:
    tried, passed = searched(0)
    assert passed == []
    errors = [0.01 * step**1.2 for step in tried]
    assert errors[-1] <= SMALLEST_ERROR < errors[-2]


def test_strides_are_about_fourfold_in_the_error() -> None:
    tried, _ = searched(1e9)
    assert len(tried) == 11
    assert (tried[1] / tried[0]) ** 1.2 == pytest.approx(4)


def test_sizes_that_jump_end_it_too() -> None:
    """The ends of the bracket never come closer than a factor of two in size."""
    search, attempts = GateSearch(1.0), 1
    while search.observe(100 if search.step <= 2.5 else 50, 0.01, passed=search.step <= 2.5):
        attempts += 1
    assert attempts < 11
