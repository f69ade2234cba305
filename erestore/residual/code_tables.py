"""Which runs of codes share a table: runs of like magnitude, as long as a table of their own does not pay.

Codes of one column of a factor are about Gaussian, and columns differ in scale; a table costs bytes, and so does a
distribution that is a mixture of scales. Runs start in classes a quarter octave wide, and neighbouring classes are merged
while that makes the whole smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FINENESS = 4
"""Classes an octave of mean magnitude to begin with."""
_TABLE_BITS = 8 * 16
_ENTRY_BITS = 20
"""Bits of a table of its own, and of every entry, as pcodec stores them."""
_LINEAR = 32
_PER_OCTAVE = 8
"""Codes are counted one by one up to a magnitude, and in so many cells an octave beyond: what is inside a cell is equally
likely under any table, so it does not matter to the choice."""
_CELLS = _LINEAR + _PER_OCTAVE * 27
MOST = 127
"""Classes at most, whatever they cost: two kinds of integers share the numbers of a byte."""


def clusters(matrices: Sequence[NDArray[Any]]) -> list[NDArray[np.int64]]:
    """Return the class of every run, from 1; 0 for runs of zeros.

    Parameters
    ----------
    matrices : sequence of ndarray
        Integers ``(runs, length)``.
    """
    magnitudes = [np.abs(matrix, dtype=np.float32).mean(axis=1) for matrix in matrices]
    levels = [np.round(_FINENESS * np.log2(m, where=m > 0, out=np.full_like(m, -np.inf))) for m in magnitudes]
    present = np.unique(np.concatenate([level[np.isfinite(level)] for level in levels])) if levels else np.zeros(0)
    if not present.size:
        return [np.zeros(len(matrix), dtype=np.int64) for matrix in matrices]
    counts = np.zeros((len(present), 2 * _CELLS + 1))
    for matrix, level in zip(matrices, levels, strict=True):
        for index, value in enumerate(present):
            if (members := matrix[level == value]).size:
                counts[index] += np.bincount(_cells(members.reshape(-1)), minlength=counts.shape[1])
    merged = _merge(counts)
    return [
        np.where(np.isfinite(level), merged[np.searchsorted(present, np.maximum(level, present[0]))] + 1, 0)
        for level in levels
    ]


def _cells(codes: NDArray[Any]) -> NDArray[np.int64]:
    sizes = np.abs(codes.astype(np.int64))
    if sizes.max() > _LINEAR:
        large = _LINEAR + np.round(_PER_OCTAVE * np.log2(np.maximum(sizes, 1) / _LINEAR)).astype(np.int64)
        sizes = np.where(sizes > _LINEAR, large, sizes)
    return np.where(codes < 0, -sizes, sizes) + _CELLS


def _merge(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the class of every level after neighbours were merged while that saves bits, counted from 0."""
    classes = [[level] for level in range(len(counts))]
    sums = list(counts)
    costs = [_cost(row) for row in sums]
    while len(classes) > 1:
        together = [_cost(one + two) for one, two in pairwise(sums)]
        gains = [one + two - both for (one, two), both in zip(pairwise(costs), together, strict=True)]
        best = int(np.argmax(gains))
        if gains[best] <= 0 and len(classes) <= MOST:
            break
        classes[best : best + 2] = [classes[best] + classes[best + 1]]
        sums[best : best + 2] = [sums[best] + sums[best + 1]]
        costs[best : best + 2] = [together[best]]
    result = np.zeros(len(counts), dtype=np.int64)
    for number, members in enumerate(classes):
        result[members] = number
    return result


def _cost(counts: NDArray[np.float64]) -> float:
    """Return bits of a class's codes and table."""
    nonzero = counts[counts > 0]
    total = nonzero.sum()
    return float(total * np.log2(total) - (nonzero * np.log2(nonzero)).sum()) + _TABLE_BITS + _ENTRY_BITS * len(nonzero)
