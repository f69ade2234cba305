"""Row tiles: cutting a matrix into them, and combining variants in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from erestore.arrays import Array
from erestore.merge.operands import Rows, TiledOperands

ELEMENTS = 1 << 18
"""Entries of a tile of the passes that a strategy makes itself: 2 MB in float64."""


def tiles(shape: tuple[int, int], elements: int = ELEMENTS) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows of at most `elements` entries, or of one row, that cover a matrix."""
    height = max(1, elements // max(1, shape[1]))
    for start in range(0, shape[0], height):
        yield start, min(start + height, shape[0])


def combination(operands: TiledOperands, coefficients: Sequence[float]) -> Rows:
    """Return the linear combination of variants, added in their order."""

    def rows(start: int, stop: int) -> Array:
        total: Array = np.zeros((stop - start, operands.shape[1]))
        for coefficient, variant in zip(coefficients, operands.rows, strict=True):
            total += coefficient * variant(start, stop)
        return total

    return rows


def rows_of(matrix: Array) -> Rows:
    """Return a matrix that is held, as tiles."""
    return lambda start, stop: matrix[start:stop].copy()
