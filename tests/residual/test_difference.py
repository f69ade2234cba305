"""Exact remainders as the first version wrote them."""

from __future__ import annotations

import former_remainder
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.arrays import named_dtype
from erestore.residual import difference

INTEGERS = {
    named_dtype("float64"): np.int64,
    named_dtype("float32"): np.int32,
    named_dtype("float16"): np.int16,
    named_dtype("bfloat16"): np.int16,
    named_dtype("float8_e4m3fn"): np.int8,
    named_dtype("float8_e5m2"): np.int8,
    named_dtype("float8_e4m3fnuz"): np.int8,
    named_dtype("float8_e5m2fnuz"): np.int8,
}
DTYPES = pytest.mark.parametrize("dtype", list(INTEGERS), ids=str)


def array(bits, dtype):
    return np.array(bits, dtype=INTEGERS[dtype]).view(dtype)


@DTYPES
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_bits_come_back_from_any_prediction(dtype, data):
    limit = np.iinfo(INTEGERS[dtype])
    pair = st.tuples(st.integers(limit.min, limit.max), st.integers(limit.min, limit.max))
    pairs = data.draw(st.lists(pair, min_size=1, max_size=30))
    value, predicted = (array([pair[side] for pair in pairs], dtype) for side in (0, 1))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(difference, "CHUNK", 8)
        parts = list(former_remainder.encode(value, predicted))
        assert [len(part) for part in parts] == [
            8 * dtype.itemsize if start + 8 <= len(pairs) else (len(pairs) - start) * dtype.itemsize
            for start in range(0, len(pairs), 8)
        ]
        guesses = [predicted[start : start + 8] for start in range(0, len(pairs), 8)]
        found = np.concatenate([difference.decode(part, guess) for part, guess in zip(parts, guesses, strict=True)])
    assert found.dtype == dtype
    assert found.view(INTEGERS[dtype]).tolist() == value.view(INTEGERS[dtype]).tolist()


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e5m2"])
def test_neighbours_have_the_smallest_codes(name):
    """From the largest negative number to the largest positive one, every step is one, across zero too."""
    dtype = named_dtype(name)
    one = int(np.array([1.0]).astype(dtype).view(INTEGERS[dtype])[0])
    top = one // 1024 if name == "float32" else one
    limit = np.iinfo(INTEGERS[dtype]).min
    steps = [limit + bits for bits in range(min(top, 200), -1, -1)] + list(range(min(top, 200) + 1))
    values = array(steps, dtype)
    assert bool((values[1:].astype(float) >= values[:-1].astype(float)).all())
    assert former_remainder.zigzag(values[1:], values[:-1]).tolist() == [2] * (len(steps) - 1)
    assert former_remainder.zigzag(values[:-1], values[1:]).tolist() == [1] * (len(steps) - 1)
