"""The largest entries of a tensor by magnitude, as many as a density allows, found in bounded memory.

Magnitudes are ordered as the bits of their float64 are. A tile at a time, the entries are counted by the leading 16 bits, and
then those that share these by the next 16, until the rest are few enough to be held and sorted: for all but the largest
tensors that is at once, and for those after one count. Where several entries have the magnitude of the last one that is kept,
a further pass finds the position up to which they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from erestore.arrays import Array
from erestore.merge.operands import Rows
from erestore.merge.tiles import tiles

HELD = 1 << 20
"""Magnitudes that may be held at a time: 8 MB."""
_STEP = 16
"""Bits that are told apart in one pass."""
_INFINITY = np.array(np.inf).view(np.uint64)[()]


@dataclass(frozen=True)
class Cutoff:
    """Which entries of a matrix are kept: the larger ones, and of those as large as the last one the first in row order.

    Stored changes have few distinct magnitudes, those of a narrow dtype fewer still, so that a threshold alone would keep
    many times the entries that were asked for.

    Attributes
    ----------
    magnitude : int
        Bits of the smallest magnitude that is kept, as float64.
    last : int
        Position, row after row, of the last entry of that magnitude that is kept.
    """

    magnitude: int
    last: int

    def trim(self, tile: Array, start: int) -> Array:
        """Set all other entries of a tile to zero, in place.

        Parameters
        ----------
        tile : ndarray
            Rows of the matrix, float64, contiguous.
        start : int
            Number of its first row.
        """
        bits = _magnitudes(tile)
        keep = (bits > np.uint64(self.magnitude)) | (bits > _INFINITY)  # NaN must not vanish
        ties = np.flatnonzero(bits == np.uint64(self.magnitude))
        keep[ties[ties + start * tile.shape[1] <= self.last]] = True
        tile[~keep.reshape(tile.shape)] = 0.0
        return tile


def cutoff(rows: Rows, shape: tuple[int, int], density: Fraction) -> Cutoff:
    """Find the largest ``density * m * n`` entries (rounded down, but at least one).

    Parameters
    ----------
    rows : Callable
        See :data:`Rows`; evaluated a few times.
    shape : tuple of int
    density : Fraction
        In (0, 1].

    Returns
    -------
    Cutoff
        NaN counts as larger than all else, and is kept however much of it there is.
    """
    size = shape[0] * shape[1]
    wanted = max(1, math.floor(density * size))
    if wanted >= size:
        return Cutoff(0, size)
    prefix, fixed, among = 0, 0, size
    while among > HELD and fixed < 64:
        counts = np.zeros(1 << _STEP, np.int64)
        for start, stop in tiles(shape):
            bits = _sharing(rows(start, stop), prefix, fixed)
            leading = (bits >> np.uint64(64 - fixed - _STEP)) & np.uint64((1 << _STEP) - 1)
            counts += np.bincount(leading.astype(np.int64), minlength=1 << _STEP)
        above = np.cumsum(counts[::-1])
        rank = int(np.searchsorted(above, wanted))
        bucket = len(counts) - 1 - rank
        wanted -= int(above[rank] - counts[bucket])
        prefix, fixed, among = (prefix << _STEP) | bucket, fixed + _STEP, int(counts[bucket])
    if fixed == 64:
        return Cutoff(prefix, _position(rows, shape, prefix, wanted) if wanted < among else size)
    candidates, position = np.empty(among, np.uint64), 0
    for start, stop in tiles(shape):
        bits = _sharing(rows(start, stop), prefix, fixed)
        candidates[position : position + len(bits)] = bits
        position += len(bits)
    candidates.partition(among - wanted)
    magnitude = candidates[among - wanted]
    wanted -= int(np.count_nonzero(candidates > magnitude))
    tied = int(np.count_nonzero(candidates == magnitude))
    return Cutoff(int(magnitude), _position(rows, shape, int(magnitude), wanted) if wanted < tied else size)


def _position(rows: Rows, shape: tuple[int, int], magnitude: int, count: int) -> int:
    """Return the position of the `count`-th entry of a magnitude, row after row."""
    for start, stop in tiles(shape):
        ties = np.flatnonzero(_magnitudes(rows(start, stop)) == np.uint64(magnitude))
        if len(ties) >= count:
            return start * shape[1] + int(ties[count - 1])
        count -= len(ties)
    raise AssertionError("rows changed between two passes")


def _magnitudes(tile: Array) -> Array:
    """Return the bits of the magnitudes of a tile, uint64, row after row."""
    bits: Array = np.abs(tile).reshape(-1).view(np.uint64)
    return bits


def _sharing(tile: Array, prefix: int, fixed: int) -> Array:
    """Return the bits of the magnitudes of entries whose first `fixed` bits are `prefix`."""
    bits = _magnitudes(tile)
    return bits[bits >> np.uint64(64 - fixed) == np.uint64(prefix)] if fixed else bits
