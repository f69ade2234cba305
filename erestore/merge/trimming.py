"""The magnitude that a share of a tensor's entries reach, found in bounded memory.

Magnitudes are ordered as the bits of their float64 are. A tile at a time, the entries are counted by the leading 16 bits, and
then those that share these by the next 16, until the rest are few enough to be held and sorted: for all but the largest
tensors that is at once, and for those after one count.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from erestore.arrays import Array
from erestore.merge.operands import Rows
from erestore.merge.tiles import tiles

HELD = 1 << 20
"""Magnitudes that may be held at a time: 8 MB."""
_STEP = 16
"""Bits that are told apart in one pass."""


def threshold(rows: Rows, shape: tuple[int, int], density: Fraction) -> float:
    """Return the smallest magnitude among the largest ``density * m * n`` entries (rounded down, but at least one).

    Parameters
    ----------
    rows : Callable
        See :data:`Rows`; evaluated a few times.
    shape : tuple of int
    density : Fraction
        In (0, 1].

    Returns
    -------
    float
        Entries of at least this magnitude are kept. Ties with the last are kept too, so that what is kept depends on no
        order. NaN counts as larger than all else.
    """
    size = shape[0] * shape[1]
    wanted = max(1, math.floor(density * size))
    if wanted >= size:
        return 0.0
    prefix, fixed, among = 0, 0, size
    while among > HELD and fixed < 64:
        counts = np.zeros(1 << _STEP, np.int64)
        for start, stop in tiles(shape):
            bits = _sharing(rows(start, stop), prefix, fixed)
            leading = (bits >> np.uint64(64 - fixed - _STEP)) & np.uint64((1 << _STEP) - 1)
            counts += np.bincount(leading.astype(np.int64), minlength=1 << _STEP)
        above = np.cumsum(counts[::-1])
        place = int(np.searchsorted(above, wanted))
        bucket = len(counts) - 1 - place
        wanted -= int(above[place] - counts[bucket])
        prefix, fixed, among = (prefix << _STEP) | bucket, fixed + _STEP, int(counts[bucket])
    if fixed == 64:
        return float(np.array(prefix, np.uint64).view(np.float64))
    held, position = np.empty(among, np.uint64), 0
    for start, stop in tiles(shape):
        bits = _sharing(rows(start, stop), prefix, fixed)
        held[position : position + len(bits)] = bits
        position += len(bits)
    held.partition(among - wanted)
    return float(held[among - wanted].view(np.float64))


def trim(tile: Array, smallest: float) -> Array:
    """Set entries below a threshold to zero, in place."""
    tile[np.abs(tile) < smallest] = 0.0
    return tile


def _sharing(tile: Array, prefix: int, fixed: int) -> Array:
    """Return the bits of the magnitudes, uint64, of entries whose first `fixed` bits are `prefix`."""
    bits: Array = np.abs(tile).reshape(-1).view(np.uint64)
    return bits[bits >> np.uint64(64 - fixed) == np.uint64(prefix)] if fixed else bits
