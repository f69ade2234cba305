"""Singular values and vectors of matrices that are known by their factors: QR of both sides and an SVD of the small core.

Nothing here is of the size of the matrix, unless the factors are: of ``r`` columns they cost ``O((m + n) r^2)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from erestore.arrays import Array
from erestore.merge.operands import MatrixFactors

_LEAST = 128
"""Size that a matrix counts as at least, where its rank is told from rounding."""


class SingularComponents(NamedTuple):
    """A matrix ``left * values @ right.T``.

    Attributes
    ----------
    left, right : ndarray
        Float64 ``(m, r)`` and ``(n, r)``, orthonormal columns.
    values : ndarray
        Float64 ``(r,)``, positive, descending.
    """

    left: Array
    values: Array
    right: Array

    def leading(self, rank: int) -> SingularComponents:
        """Return the first components."""
        return SingularComponents(self.left[:, :rank], self.values[:rank], self.right[:, :rank])


def spectrum(factors: MatrixFactors) -> SingularComponents:
    """Decompose ``left @ right.T``; components that rounding alone could have made are left out."""
    left, right = (np.linalg.qr(side) for side in factors)
    inner, values, outer = np.linalg.svd(left.R @ right.R.T, full_matrices=False)
    rank = _rank(values, max(len(factors.left), len(factors.right)))
    return SingularComponents(left.Q @ inner[:, :rank], values[:rank], right.Q @ outer[:rank].T)


def basis(columns: Array) -> Array:
    """Return the left singular vectors of ``(m, r)`` columns that have a singular value, largest first."""
    side = np.linalg.qr(columns)
    inner, values, _ = np.linalg.svd(side.R, full_matrices=False)
    vectors: Array = side.Q @ inner[:, : _rank(values, len(columns))]
    return vectors


def orthogonalised(columns: Array) -> Array:
    """Return ``P @ Q.T`` for the SVD ``P S Q.T`` of columns: the nearest with orthonormal columns (orthogonal Procrustes).

    Of columns that depend on each other no such matrix is the nearest. Then ``P`` and ``Q`` are those of the nonzero singular
    values alone, which is unique: no direction comes in that was not there.
    """
    side = np.linalg.qr(columns)
    inner, values, outer = np.linalg.svd(side.R, full_matrices=False)
    rank = _rank(values, len(columns))
    product: Array = side.Q @ (inner[:, :rank] @ outer[:rank])
    return product


def combined(factors: Sequence[MatrixFactors], weights: Sequence[float]) -> MatrixFactors:
    """Return ``sum(w_i A_i B_i^T)`` by putting the factors side by side."""
    left = np.concatenate([weight * term.left for weight, term in zip(weights, factors, strict=True)], axis=1)
    return MatrixFactors(left, np.concatenate([term.right for term in factors], axis=1))


def balanced(factors: MatrixFactors) -> MatrixFactors:
    """Return ``U sqrt(S)`` and ``V sqrt(S)``: factors that depend on the matrix alone, but for signs."""
    components = spectrum(factors)
    roots = np.sqrt(components.values)
    return MatrixFactors(components.left * roots, components.right * roots)


def _rank(values: Array, size: int) -> int:
    """Return how many singular values are more than rounding, by the usual rule; small matrices are products of large ones."""
    floor = max(size, _LEAST) * np.finfo(np.float64).eps
    return int(np.count_nonzero(values > floor * values[0])) if len(values) else 0
