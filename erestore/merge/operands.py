"""What a strategy is given of one tensor: the variants' differences from the base, in row tiles or as factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple, Self

from erestore.arrays import Array
from erestore.errors import UsageError

Rows = Callable[[int, int], Array]
"""Evaluates rows ``start:stop`` of a matrix, float64, as often as it is asked to."""


class MatrixFactors(NamedTuple):
    """A matrix ``left @ right.T``.

    Attributes
    ----------
    left : ndarray
        Float64 ``(m, r)``.
    right : ndarray
        Float64 ``(n, r)``.
    """

    left: Array
    right: Array


@dataclass(frozen=True, kw_only=True)
class Operands:
    """Variants of one tensor of ``m x n``, each with a weight.

    Attributes
    ----------
    tensor : str
        Its name.
    shape : tuple of int
        ``(m, n)``; a vector is one row.
    labels : tuple of str
        What tells the variants apart, such as oids of their commits; random numbers depend on it and not on the order, so
        that taking one variant out changes nothing for the others.
    weights : tuple of Fraction
    statistics : sequence of ndarray, optional
        Of each variant, what the strategy's `needs` names: the diagonal Fisher information ``(m, n)``, or the second moments
        of a layer's inputs ``(n, n)``. Only slices of rows are taken, so that they may be memory maps.
    """

    tensor: str
    shape: tuple[int, int]
    labels: tuple[str, ...]
    weights: tuple[Fraction, ...]
    statistics: Sequence[Array] | None = None

    def positions(self) -> list[int]:
        """Return the places of the variants whose weight is not 0; others have no influence of any kind.

        Raises
        ------
        UsageError
            If there are none.
        """
        indices = [index for index, weight in enumerate(self.weights) if weight]
        if not indices:
            raise UsageError("All weights are 0, so there is nothing to merge.", hint="Give a weight to some variant.")
        return indices

    def _common(self, places: Sequence[int]) -> Self:
        return replace(
            self,
            labels=tuple(self.labels[index] for index in places),
            weights=tuple(self.weights[index] for index in places),
            statistics=None if self.statistics is None else [self.statistics[index] for index in places],
        )


@dataclass(frozen=True, kw_only=True)
class TiledOperands(Operands):
    """Variants of one tensor that are evaluated in row tiles.

    Attributes
    ----------
    rows : sequence of Callable
        Of each variant; see :data:`Rows`.
    """

    rows: Sequence[Rows]

    def without_zero_weights(self) -> TiledOperands:
        """Return the same without variants of weight 0."""
        places = self.positions()
        return replace(self._common(places), rows=[self.rows[index] for index in places])


@dataclass(frozen=True, kw_only=True)
class FactoredOperands(Operands):
    """Variants of one tensor as factors.

    Attributes
    ----------
    factors : sequence of MatrixFactors
        Of each variant; of any rank, 0 too.
    """

    factors: Sequence[MatrixFactors]

    def without_zero_weights(self) -> FactoredOperands:
        """Return the same without variants of weight 0."""
        places = self.positions()
        return replace(self._common(places), factors=[self.factors[index] for index in places])
