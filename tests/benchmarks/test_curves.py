"""Sizes read off curves."""

import math

import pytest
from comparison import Row, compare, least_and_median
from curves import at_equal


def test_a_power_law_is_read_exactly_between_points():
    curve = [(size**-1.5, size) for size in (10.0, 30.0, 200.0)]
    assert at_equal(curve, 77.0**-1.5) == pytest.approx(77.0)
    assert at_equal(curve[::-1], 200.0**-1.5) == pytest.approx(200.0)


def test_what_was_not_reached_has_no_size():
    assert at_equal([(0.1, 10), (0.01, 100)], 0.001) is None


def test_more_loss_than_measured_is_charged_the_smallest_size():
    assert at_equal([(0.1, 10), (0.01, 100)], 0.9) == 10


def test_of_several_crossings_the_dearest_counts():
    curve = [(0.4, 10), (0.05, 20), (0.2, 40), (0.01, 80)]
    assert at_equal(curve, 0.1) == pytest.approx(40 * math.sqrt(2) ** (math.log(2) / math.log(20) * 2))


def test_new_tensors_are_on_both_sides_or_on_neither():
    found = {
        "new_bytes": 100,
        "ours": [
            {"method": "ours-frobenius", "error": 0.5, "total": 200},
            {"method": "ours-frobenius", "error": 0.05, "total": 1100},
            {"method": "ours", "error": 0.1, "total": 10},
        ],
        "yardsticks": [
            {"method": "ere", "setting": 8, "error": 0.05, "payload": 2000, "total": 3300, "stored": 2200},
            {"method": "bitq", "setting": 0, "error": 0.001, "total": 5000},
        ],
    }
    ere, bitq = compare("pair", found, "error")
    assert [ere.ratio(charge) for charge in ("payload", "paper", "stored")] == pytest.approx([2.0, 3.0, 2.0])
    assert bitq.ours is None
    assert bitq.ratio("paper") is None
    assert compare("pair", found, "kl") == []


def test_extremes_leave_out_what_is_unknown():
    def row(ours: float | None) -> Row:
        return Row("pair", "ere", 8, 0.1, {"paper": 60.0}, ours, 0)

    assert least_and_median([row(10.0), row(20.0), row(None), row(30.0)], "paper") == (2.0, 3.0)
    assert least_and_median([row(None)], "paper") is None
