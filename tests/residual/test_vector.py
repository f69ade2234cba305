"""Uniformly quantised values as erestore first stored them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from former_codes import encode_vector
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.errors import CorruptionError
from erestore.residual import dyadic
from erestore.residual.codecs import vector

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


def decode(encoded, shape):
    return vector.Vector.decode(encoded.parameters, [part.content for part in encoded.parts], shape)


@settings(deadline=None, max_examples=60)
@given(values=VALUES, step=st.floats(1e-9, 10), chunk=st.sampled_from([7, 1 << 20]))
def test_every_value_is_a_multiple_of_the_step_within_half_of_it(values, step, chunk):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vector, "CHUNK", chunk)
        encoded = encode_vector(np.array(values), step, chunk)
        section = decode(encoded, (1, len(values)))
    size = dyadic.read(encoded.parameters["step"], vector.STEP_BITS)
    assert size.value == pytest.approx(max(step, max(map(abs, values)) / vector.CODE_LIMIT), rel=2**-23)
    found = section.rows(0, 1, np.zeros((1, len(values))))[0].tolist()
    for value, code, original in zip(found, section.codes[0].tolist(), values, strict=True):
        assert Fraction(value) == code * size.mantissa * Fraction(2) ** size.exponent
        assert abs(value - original) <= size.value * (0.5 + 1e-6)
    assert len(encoded.parts) == -(-len(values) // chunk)


def test_rows_of_a_matrix():
    values = np.arange(-6.0, 6.0).reshape(4, 3)
    section = decode(encode_vector(values, 1.0), (4, 3))
    assert section.rows(1, 3, np.zeros((2, 3))).tolist() == values[1:3].tolist()


def test_nothing_and_zeros_take_next_to_nothing():
    assert encode_vector(np.zeros((0, 3)), 0.5).parts == ()
    assert decode(encode_vector(np.zeros((0, 3)), 0.5), (0, 3)).codes.shape == (0, 3)
    assert encode_vector(np.zeros(5000), 0.5).size == 1


@pytest.mark.parametrize(
    ("parameters", "parts"),
    [
        ({"step": [1, 0]}, []),
        ({"step": [1, 0]}, [b""]),
        ({"step": [1, 0]}, [b"\6"]),
        ({"step": [1, 0]}, [b"\3ab", b""]),
        ({"step": [1, 0]}, [b"\3a"]),
        ({}, [b"\3ab"]),
        ({"step": [1, 0]}, [b"\5\0\0\0\0\0\0\xff\xff"]),  # codes of more than 29 bits
    ],
)
def test_anything_else_is_refused(parameters, parts):
    with pytest.raises(CorruptionError):
        vector.Vector.decode(parameters, parts, (1, 2))
