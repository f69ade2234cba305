"""Exact remainders as erestore first wrote them; only read now. :mod:`erestore.residual.exact_remainder` is what is written.

``(v - p) + p == v`` fails in every float dtype, so the difference is taken between integers: the bits of a float, with
negative numbers mapped below positive ones, increase with its value. Differences wrap around, are zigzag-coded (0, -1, 1, -2,
...) and stored as byte planes.
"""

from __future__ import annotations

import numpy as np

from erestore.arrays import Array
from erestore.residual.planes import from_planes

CHUNK = 1 << 18
"""Elements a part."""


def _ordered(bits: Array) -> Array:
    """Map bits to signed integers that increase with the value; its own inverse."""
    return np.where(bits < 0, bits ^ np.iinfo(bits.dtype).max, bits)


def decode(part: bytes, predicted: Array) -> Array:
    """Return the values of one part.

    Parameters
    ----------
    part : bytes
        ``predicted.nbytes`` bytes, which the caller has checked.
    predicted : ndarray
        Flat, the same elements as predicted when encoding.
    """
    integer = np.dtype(f"i{predicted.itemsize}")
    coded = from_planes(part, integer)
    # The shift of a zigzag code is logical; that of a signed integer is not, so the sign is masked off.
    difference = ((coded >> 1) & np.iinfo(integer).max) ^ -(coded & 1)
    return _ordered(_ordered(predicted.view(integer)) + difference).view(predicted.dtype)
