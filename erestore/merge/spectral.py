"""Strategies that look at singular directions: they take the variants' whole differences from the base, one tensor at a time.

Vectors have no directions; they are averaged by their weights, as the papers' code does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from erestore.arrays import Array
from erestore.errors import UsageError
from erestore.merge.elementwise import Ties

_Triplets = tuple[Array, Array, Array]


class SpectralStrategy(ABC):
    """A way to merge matrices; the fields of a subclass are its parameters.

    Attributes
    ----------
    name : str
    """

    name: ClassVar[str]

    @abstractmethod
    def merge(self, deltas: Sequence[Array]) -> Array:
        """Merge matrices ``(m, n)`` that have been multiplied by their weights, float64; they may be written to."""


def decompose(matrix: Array) -> _Triplets:
    """Return ``U (m, r), S (r,), V (n, r)`` of a matrix, ``r`` the shorter side.

    A long matrix is first reduced by QR, so that the decomposition is of a square one.
    """
    m, n = matrix.shape
    if n > m:
        right, values, left = decompose(matrix.T)
        return left, values, right
    if m > 2 * n:
        outer, inner = np.linalg.qr(matrix)
        left, values, right = np.linalg.svd(inner, full_matrices=False)
        return outer @ left, values, right.T
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left, values, right.T


def nearest_orthonormal(matrix: Array) -> Array:
    """Return the nearest matrix with orthonormal columns (orthogonal Procrustes), ``(m, k)`` with ``k <= m``."""
    left, _, right = decompose(matrix)
    found: Array = left @ right.T
    return found


@dataclass(frozen=True)
class Tsv(SpectralStrategy):
    """TSV-Merge (Gargiulo et al. 2025, arXiv 2412.00081): task singular vectors, decorrelated.

    Of each of T variants the strongest 1/T of the singular triplets are kept; their vectors side by side are replaced by the
    nearest orthonormal ones.

    Attributes
    ----------
    scale : Fraction
    """

    name = "tsv"
    scale: Fraction = Fraction(1)

    def merge(self, deltas: Sequence[Array]) -> Array:
        """See :meth:`SpectralStrategy.merge`."""
        count = max(1, min(deltas[0].shape) // len(deltas))
        parts = [decompose(delta) for delta in deltas]
        left = np.concatenate([part[0][:, :count] for part in parts], axis=1)[:, : min(deltas[0].shape)]
        values = np.concatenate([part[1][:count] for part in parts])[: min(deltas[0].shape)]
        right = np.concatenate([part[2][:, :count] for part in parts], axis=1)[:, : min(deltas[0].shape)]
        found: Array = float(self.scale) * (nearest_orthonormal(left) * values) @ nearest_orthonormal(right).T
        return found


@dataclass(frozen=True)
class IsoC(SpectralStrategy):
    """Iso-C (Marczak et al. 2025, arXiv 2502.04959): the sum of all differences, with all singular values made their mean.

    Attributes
    ----------
    scale : Fraction
    """

    name = "iso-c"
    scale: Fraction = Fraction(1)

    def merge(self, deltas: Sequence[Array]) -> Array:
        """See :meth:`SpectralStrategy.merge`."""
        left, values, right = decompose(np.sum(deltas, axis=0))
        alive = values > values[:1].sum() * max(left.shape[0], right.shape[0]) * np.finfo(np.float64).eps
        mean = values.mean() if len(values) else 0.0
        found: Array = float(self.scale) * mean * (left * alive) @ right.T
        return found


@dataclass(frozen=True)
class Knots(SpectralStrategy):
    """KnOTS with TIES (Stoica et al. 2024, arXiv 2410.19735): differences side by side share left singular vectors.

    ``[D_1 ... D_T] = U S [V_1 ... V_T]^T``; the parts ``V_i`` are merged by TIES.

    Attributes
    ----------
    density, scale : Fraction
        Of TIES.
    """

    name = "knots"
    density: Fraction = Fraction(1, 5)
    scale: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        Ties(self.density, self.scale)

    def merge(self, deltas: Sequence[Array]) -> Array:
        """See :meth:`SpectralStrategy.merge`."""
        left, values, right = decompose(np.concatenate(deltas, axis=1))
        columns = deltas[0].shape[1]
        parts = [(right[start : start + columns]).T.copy() for start in range(0, len(right), columns)]
        merged = _ties(parts, self.density, self.scale)
        found: Array = (left * values) @ merged
        return found


@dataclass(frozen=True)
class CoreSpace(SpectralStrategy):
    """Core Space merging (Panariello et al. 2025, arXiv 2509.17786) with TIES: merged in a common basis, and put back.

    The common bases are the left and right singular vectors of all differences stacked, so nothing is lost by the change of
    basis; what TIES trims and elects are coordinates in it.

    Attributes
    ----------
    density, scale : Fraction
        Of TIES.
    """

    name = "core-space"
    density: Fraction = Fraction(1, 5)
    scale: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        Ties(self.density, self.scale)

    def merge(self, deltas: Sequence[Array]) -> Array:
        """See :meth:`SpectralStrategy.merge`."""
        left = _basis(np.concatenate(deltas, axis=1))
        right = _basis(np.concatenate([delta.T for delta in deltas], axis=1))
        cores = [left.T @ delta @ right for delta in deltas]
        found: Array = left @ _ties(cores, self.density, self.scale) @ right.T
        return found


def _basis(matrix: Array) -> Array:
    """Return an orthonormal basis of the columns' span."""
    left, values, _ = decompose(matrix)
    limit = (values[0] if len(values) else 0.0) * max(matrix.shape) * np.finfo(np.float64).eps
    return left[:, values > limit]


def _ties(parts: Sequence[Array], density: Fraction, scale: Fraction) -> Array:
    strategy = Ties(density, scale)
    least = [strategy.prepare(part) for part in parts]
    return strategy.merge(parts, [1.0] * len(parts), least, [])


def require_two(count: int, name: str) -> None:
    """Refuse to merge one variant with itself alone.

    Raises
    ------
    UsageError
        If there are fewer than two.
    """
    if count < 2:
        raise UsageError(f"{name} is of two variants or more.")
