"""Where two changes of one tensor meet: the spaces that their leading components span, and what of one lies in the other's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from erestore.arrays import Array
from erestore.residual.products import TILE_BYTES, Matrix, Rows

Weighted = Sequence[tuple[float, Matrix]]
"""Coefficients and matrices of one tensor: the change is their sum."""


@dataclass(frozen=True)
class Subspaces:
    """The column and row spaces of the leading components of a change.

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


def leading_subspaces(change: Weighted, share: float, base: Rows | None = None) -> Subspaces | None:
    """Return the spaces of the fewest components that hold a share of the squared norm of a change.

    Of factors alone by QR of both sides and an SVD of the small core; else from the Gram matrix of the short side, which
    resolves singular values down to about 1e-8 of the largest.

    Parameters
    ----------
    change : Weighted
    share : float
        0 to 1.
    base : Rows, optional
        The base's tensor, for sections that are multiples of it.

    Returns
    -------
    Subspaces or None
        None where the change is zero.
    """
    if not change:
        return None
    if any(matrix.others for _, matrix in change):
        return _of_rows(change, share, base)
    left_basis, left_core = np.linalg.qr(_side(change, 0))
    right_basis, right_core = np.linalg.qr(_side(change, 1))
    one, values, two = np.linalg.svd(left_core @ right_core.T)
    rank = _rank(values**2, share)
    return Subspaces(left_basis @ one[:, :rank], right_basis @ two[:rank].T) if rank else None


def _side(change: Weighted, side: int) -> Array:
    """Return one side of all factors, next to each other; coefficients are on the left side."""
    rows, columns = _shape(change)
    sides = (
        _padded(left * coefficient, rows) if side == 0 else right
        for coefficient, matrix in change
        for left, right in matrix.factors()
    )
    return np.concatenate([np.zeros(((rows, columns)[side], 0)), *sides], axis=1)


def _shape(change: Weighted) -> tuple[int, int]:
    return max(matrix.shape[0] for _, matrix in change), change[0][1].shape[1]


def _rank(energy: Array, share: float) -> int:
    """Return how many leading components hold a share of the energy, 0 if there is none."""
    total = np.cumsum(np.maximum(energy, 0))
    if not total.size or not total[-1] > 0:
        return 0
    return min(len(total), int(np.searchsorted(total, share * total[-1])) + 1)


def _of_rows(change: Weighted, share: float, base: Rows | None) -> Subspaces | None:
    rows, columns = _shape(change)
    if rows < columns:  # the one case where the matrix is held: its short side goes across the tiles
        matrix = np.concatenate([tile for _, tile in _tiles(change, base)])
        left, spread = _components(matrix @ matrix.T, share)
        return None if not len(spread) else Subspaces(left, matrix.T @ left / spread)
    products = np.zeros((columns, columns))
    for _, tile in _tiles(change, base):
        products += tile.T @ tile
    right, spread = _components(products, share)
    if not len(spread):
        return None
    return Subspaces(np.concatenate([tile @ right / spread for _, tile in _tiles(change, base)]), right)


def _components(products: Array, share: float) -> tuple[Array, Array]:
    """Return the leading eigenvectors of a Gram matrix and the square roots of their eigenvalues."""
    energy, vectors = np.linalg.eigh(products)
    energy, vectors = energy[::-1], vectors[:, ::-1]
    rank = _rank(energy, share)
    return vectors[:, :rank], np.sqrt(energy[:rank])


def _tiles(change: Weighted, base: Rows | None) -> Iterator[tuple[int, Array]]:
    """Yield the first row of every tile of the change, and the tile."""
    rows, columns = _shape(change)
    needs_base = any(matrix.needs_base for _, matrix in change)
    step = max(1, TILE_BYTES // max(1, 8 * columns))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        base_rows = base(start, stop) if base is not None and needs_base else None
        total = np.zeros((stop - start, columns))
        for coefficient, matrix in change:
            tile = np.zeros_like(total)
            matrix.add_rows(tile, start, base_rows)
            total += coefficient * tile
        yield start, total


def principal_angles(one: Array, two: Array) -> Array:
    """Return the principal angles between the spaces of two orthonormal bases, ascending, in radians.

    As many as the smaller space has dimensions. From cosines, so that angles below about 1e-8 come out as zero.
    """
    rows = max(len(one), len(two))
    cosines = np.linalg.svd(_padded(one, rows).T @ _padded(two, rows), compute_uv=False)
    angles: Array = np.arccos(np.clip(cosines, 0, 1))
    return angles


def energy_within(change: Weighted, spaces: Subspaces, base: Rows | None = None) -> float:
    """Return the squared norm of a change projected on both spaces: ``||U U^T D V V^T||^2``, all of its sections counted.

    Parameters
    ----------
    change : Weighted
    spaces : Subspaces
    base : Rows, optional
        The base's tensor, for sections that are multiples of it.
    """
    projected = np.zeros((spaces.rank, spaces.rank))
    if not change:
        return 0.0
    if any(matrix.others for _, matrix in change):
        for start, tile in _tiles(change, base):
            height = max(0, min(len(tile), len(spaces.left) - start))
            projected += spaces.left[start : start + height].T @ (tile[:height] @ spaces.right)
    else:
        left, right = _side(change, 0), _side(change, 1)
        height = min(len(left), len(spaces.left))
        projected = (spaces.left[:height].T @ left[:height]) @ (right.T @ spaces.right)
    return float((projected * projected).sum())


def _padded(basis: Array, rows: int) -> Array:
    return np.pad(basis, ((0, rows - len(basis)), (0, 0)))
