"""The encoder of exact remainders that erestore first had, codec ``difference``: what it wrote must be read for ever."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from erestore.arrays import Array
from erestore.residual import difference
from erestore.residual.planes import to_planes


def integers(values: Array) -> Array:
    """Return the bits of values of any data type as signed integers."""
    return np.ascontiguousarray(values).view(f"i{values.itemsize}")


def ordered(values: Array) -> Array:
    bits = integers(values)
    return np.where(bits < 0, bits ^ np.iinfo(bits.dtype).max, bits)


def zigzag(values: Array, predicted: Array) -> Array:
    found = ordered(values) - ordered(predicted)
    return (found << 1) ^ (found >> (8 * values.itemsize - 1))


def encode(values: Array, predicted: Array) -> Iterator[bytes]:
    """Yield one part for every ``CHUNK`` elements."""
    assert (values.shape, values.dtype) == (predicted.shape, predicted.dtype)
    flat, guess = values.reshape(-1), predicted.reshape(-1)
    for start in range(0, flat.size, difference.CHUNK):
        stop = start + difference.CHUNK
        yield to_planes(zigzag(flat[start:stop], guess[start:stop]))
