"""Raw values."""

from __future__ import annotations

import numpy as np
import pytest

from erestore.arrays import BFLOAT16
from erestore.errors import CorruptionError
from erestore.residual.codecs import dense

DTYPES = [np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16), BFLOAT16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("chunk", [5, 1 << 18])
@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0, 3), (7, 5)])
def test_every_bit_is_kept(dtype, chunk, shape, monkeypatch):
    monkeypatch.setattr(dense, "CHUNK", chunk)
    integer = np.dtype(f"i{dtype.itemsize}")
    limit = np.iinfo(integer)
    bits = np.random.default_rng(1).integers(limit.min, limit.max, shape, integer, endpoint=True)
    encoded = dense.encode(bits.view(dtype))
    section = dense.Dense.decode(encoded.parameters, [part.content for part in encoded.parts], shape)
    assert section.values.dtype == dtype
    assert np.array_equal(section.values.view(integer), bits)
    assert len(encoded.parts) == -(-bits.size // chunk)


def test_rows_may_be_modified_without_harm():
    encoded = dense.encode(np.array([[1.0, 2.0]]))
    section = dense.Dense.decode(encoded.parameters, [part.content for part in encoded.parts], (1, 2))
    base = np.zeros((1, 2))
    section.rows(0, 1, base)[:] = 0
    assert section.rows(0, 1, base).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("parameters", [{}, {"dtype": "F8_E4M3"}, {"dtype": "F32", "x": 0}, {"dtype": ["F32"]}])
def test_other_parameters_are_refused(parameters):
    with pytest.raises(CorruptionError):
        dense.Dense.decode(parameters, [bytes(4)], (1, 1))


@pytest.mark.parametrize("parts", [[], [bytes(7)], [bytes(4), bytes(4)], [bytes(8), b""]])
def test_other_sizes_are_refused(parts):
    with pytest.raises(CorruptionError):
        dense.Dense.decode({"dtype": "F32"}, parts, (1, 2))
