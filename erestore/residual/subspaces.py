"""Where two changes of one tensor meet: the spaces that their leading components span, and what of one lies in the other's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from erestore.arrays import Array
from erestore.residual.products import TILE_BYTES, Matrix, Rows

Weighted = Sequence[tuple[float, Matrix]]
"""Coefficients and matrices of one tensor: the change is their sum."""


@dataclass(frozen=True)
class Subspaces:
    """The column and row spaces of the leading components of a change's factors.

    Attributes
    ----------
    left : ndarray, shape (m, k), float64
        Orthonormal basis of the column space: directions of what comes out of the layer.
    right : ndarray, shape (n, k), float64
        Of the row space: directions of what goes in.
    """

    left: Array
    right: Array

    @property
    def rank(self) -> int:
        """Number of components."""
        return int(self.left.shape[1])


def leading_subspaces(change: Weighted, share: float) -> Subspaces | None:
    """Return the spaces of the fewest leading components that hold a share of the squared norm of a change's factors.

    Sections without factors do not count. From QR of both sides and an SVD of the small core.

    Parameters
    ----------
    change : Weighted
    share : float
        0 to 1.

    Returns
    -------
    Subspaces or None
        None where there are no factors, or their sum is zero.
    """
    rows = max((matrix.shape[0] for _, matrix in change), default=0)
    lefts, rights = [], []
    for coefficient, matrix in change:
        for left, right in matrix.factors():
            padded = np.zeros((rows, left.shape[1]))
            padded[: len(left)] = left * coefficient
            lefts.append(padded)
            rights.append(right)
    if not lefts:
        return None
    left_basis, left_core = np.linalg.qr(np.concatenate(lefts, axis=1))
    right_basis, right_core = np.linalg.qr(np.concatenate(rights, axis=1))
    one, values, two = np.linalg.svd(left_core @ right_core.T)
    energy = np.cumsum(values**2)
    if not energy.size or not energy[-1] > 0:
        return None
    rank = int(np.searchsorted(energy, share * energy[-1])) + 1
    rank = min(rank, len(values))
    return Subspaces(left_basis @ one[:, :rank], right_basis @ two[:rank].T)


def principal_angles(one: Array, two: Array) -> Array:
    """Return the principal angles between the spaces of two orthonormal bases, ascending, in radians.

    As many as the smaller space has dimensions. From cosines, so that angles below about 1e-8 come out as zero.
    """
    rows = max(len(one), len(two))
    cosines = np.linalg.svd(_padded(one, rows).T @ _padded(two, rows), compute_uv=False)
    found: Array = np.arccos(np.clip(cosines, 0, 1))
    return found


def energy_within(change: Weighted, spaces: Subspaces, base: Rows | None = None) -> float:
    """Return the squared norm of a change projected on both spaces: ``||U U^T D V V^T||^2``, all of its sections counted.

    Parameters
    ----------
    change : Weighted
    spaces : Subspaces
    base : Rows, optional
        The base's tensor, for sections that are multiples of it.
    """
    rows = len(spaces.left)
    projected = np.zeros((spaces.rank, spaces.rank))
    for coefficient, matrix in change:
        height = min(rows, matrix.shape[0])
        for left, right in matrix.factors(slice(0, height)):
            projected += coefficient * ((spaces.left[:height].T @ left) @ (right.T @ spaces.right))
        if not matrix.others:
            continue
        plain, columns = Matrix(matrix.shape, (), matrix.others), matrix.shape[1]
        step = max(1, TILE_BYTES // max(1, 8 * columns))
        for start in range(0, height, step):
            stop = min(height, start + step)
            tile = np.zeros((stop - start, columns))
            plain.add_rows(tile, start, base(start, stop) if base is not None and plain.needs_base else None)
            projected += coefficient * (spaces.left[start:stop].T @ (tile @ spaces.right))
    return float((projected * projected).sum())


def _padded(basis: Array, rows: int) -> Array:
    return np.pad(basis, ((0, rows - len(basis)), (0, 0)))
