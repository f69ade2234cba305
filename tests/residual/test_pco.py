"""Chunks of entropy-coded integers: what goes in comes out, close to the entropy, and damage is told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from erestore.errors import CorruptionError
from erestore.residual import pco

TYPES = [np.dtype(name) for name in pco.DTYPES]


@given(st.sampled_from(TYPES).flatmap(lambda t: arrays.arrays(t, st.integers(1, 300))))
def test_round_trip(values: np.ndarray) -> None:
    assert np.array_equal(pco.decompress(pco.compress(values), len(values), values.dtype), values)


def entropy_bytes(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(counts * np.log2(counts)).sum()) * len(values) / 8


@pytest.mark.parametrize("deviation", [0.3, 0.8, 2.0, 8.0])
@pytest.mark.parametrize("count", [20_000, 400_000])
def test_at_most_two_per_cent_above_the_entropy(count: int, deviation: float) -> None:
    values = np.round(np.random.default_rng(0).standard_normal(count) * deviation).astype(np.int16)
    assert len(pco.compress(values)) < 1.02 * entropy_bytes(values) + 40


@given(st.data())
def test_damage_is_told_or_decodes(data) -> None:
    values = np.round(np.random.default_rng(1).standard_normal(2000) * 3).astype(np.int32)
    content = bytearray(pco.compress(values))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        found = pco.decompress(bytes(content), len(values), values.dtype)
    except CorruptionError:
        return
    assert len(found) == len(values)


@pytest.mark.parametrize("count", [1, 1500, 2500, 5000])
def test_a_very_different_count_is_refused(count: int) -> None:
    values = np.arange(2000, dtype=np.int16) % 7
    with pytest.raises(CorruptionError):
        pco.decompress(pco.compress(values), count, values.dtype)
