"""Noise that belongs to a tensor."""

import numpy as np
import pytest

from erestore.residual.noise import NormalNoise


def test_numbers_are_normal_and_the_tensors_own():
    one = NormalNoise(0, "a.weight").rows(400, 500)
    assert one.dtype == np.float32
    assert float(one.mean()) == pytest.approx(0, abs=0.01)
    assert float(one.std()) == pytest.approx(1, abs=0.01)
    assert float(np.abs(one).max()) > 4
    for other in (NormalNoise(1, "a.weight"), NormalNoise(0, "b.weight"), NormalNoise(0, "a.weigh")):
        assert abs(float((one * other.rows(400, 500)).mean())) < 0.01


def test_rows_are_the_same_whatever_blocks_they_are_asked_for_in():
    whole = NormalNoise(3, "w").rows(33, 7)
    parts = NormalNoise(3, "w")
    assert np.array_equal(whole, np.concatenate([parts.rows(count, 7) for count in (1, 20, 0, 12)]))
