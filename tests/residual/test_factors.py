"""Adapters as they are."""

from __future__ import annotations

import numpy as np
import pytest

from erestore.arrays import BFLOAT16
from erestore.errors import CorruptionError
from erestore.residual.codecs import factors

DTYPES = pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16], ids=str)
NARROW = {"rank": 1, "up": "F16", "down": "F16", "scaling": "1.0", "transpose": False}


def decode(encoded, shape):
    return factors.Factors.decode(encoded.parameters, [part.content for part in encoded.parts], shape)


def sides(dtype, m=6, r=5, n=4):
    generator = np.random.default_rng(2)
    return generator.standard_normal((m, r)).astype(dtype), generator.standard_normal((r, n)).astype(dtype)


@DTYPES
@pytest.mark.parametrize("transpose", [False, True])
def test_the_value_is_summed_component_by_component(dtype, transpose):
    up, down = sides(dtype)
    total = np.zeros((6, 4))
    for component in range(5):
        total = total + np.outer(up[:, component].astype(float), down[component].astype(float))
    total = (total * 0.3).T if transpose else total * 0.3
    section = decode(factors.encode(up, down, 0.3, transpose=transpose), total.shape)
    base = np.zeros(total.shape)
    assert np.array_equal(section.rows(0, len(total), base), total)
    assert np.array_equal(section.rows(1, 3, base[1:3]), total[1:3])
    left, right = section.factors()
    assert np.allclose(left @ right.T, total, rtol=1e-12)


@DTYPES
def test_factors_are_kept_bit_for_bit(dtype):
    up, down = sides(dtype)
    section = decode(factors.encode(np.asfortranarray(up), down, 2.0), (6, 4))
    for found, side in ((section.left, up), (section.right, down)):
        assert found.dtype == dtype
        assert np.array_equal(found.view(f"u{dtype.itemsize}"), side.view(f"u{dtype.itemsize}"))


def test_the_order_of_components_is_the_stored_one():
    up, down = np.ones((1, 3), np.float32), np.array([[1e30], [1.0], [-1e30]], np.float32)
    base = np.zeros((1, 1))
    assert decode(factors.encode(up, down, 1.0), (1, 1)).rows(0, 1, base).tolist() == [[0]]
    assert decode(factors.encode(up, down[[0, 2, 1]], 1.0), (1, 1)).rows(0, 1, base).tolist() == [[1]]


def test_rank_zero():
    section = decode(factors.encode(np.zeros((3, 0), np.float32), np.zeros((0, 2), np.float32), 1.0), (3, 2))
    assert section.rows(0, 3, np.zeros((3, 2))).tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 2},
        {"rank": -1},
        {"up": "I8"},
        {"scaling": "inf"},
        {"scaling": "one"},
        {"transpose": 0},
        {"x": 1},
        {"down": "F32"},
    ],
)
def test_other_parameters_are_refused(change):
    with pytest.raises(CorruptionError):
        factors.Factors.decode(NARROW | change, [bytes(2), bytes(2)], (1, 1))
