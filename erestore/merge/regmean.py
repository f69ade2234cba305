"""``regmean``: the layer whose outputs are nearest to those of every variant on its own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from erestore.arrays import Array, widen
from erestore.errors import UsageError
from erestore.merge.abc import ElementwiseStrategy, FactorStrategy, Kind, MergeStrategy
from erestore.merge.operands import FactoredOperands, MatrixFactors, Operands, Rows, TiledOperands
from erestore.merge.scaled_mean import ScaledMean
from erestore.merge.sign_election import require_shares

_RIDGE = 1e-10
"""Share of the mean second moment that every direction has besides: inputs that never occur get the mean of the variants."""


@dataclass(frozen=True)
class RegMean(FactorStrategy, ElementwiseStrategy):
    """``(sum w_i D_i G_i) (sum w_i G_i)^-1`` for layers ``y = D x`` with second moments ``G_i = sum x x^T`` of their inputs.

    It is the closed form of a linear regression. The same mean of whole weights has the same differences from the base, and
    ``A_i B_i^T G_i = A_i (G_i B_i)^T``, so that factors stay factors. Off-diagonal moments are multiplied by `alpha`. What
    is not a matrix is averaged by weight.

    The moments of one layer, ``(n, n)``, and their sum are held.

    Source: Jin et al. 2023, "Dataless Knowledge Fusion by Merging Weights of Language Models", arXiv 2212.09849, section 3
    (the closed form, for ``W`` of shape in x out, and the scaling of non-diagonal items).

    Attributes
    ----------
    alpha : Fraction
        In [0, 1].
    """

    name = "regmean"
    needs = "moments"
    alpha: Fraction = Fraction(9, 10)

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"An alpha of {self.alpha} is not between 0 and 1.")

    @property
    def kind(self) -> Kind:
        """See :attr:`MergeStrategy.kind`."""
        return "factors"

    def check(self, weights: Sequence[Fraction]) -> None:
        """See :meth:`MergeStrategy.check`."""
        require_shares(weights)

    def fallback(self) -> MergeStrategy:
        """See :meth:`FactorStrategy.fallback`."""
        return ScaledMean()

    def merge(self, operands: FactoredOperands) -> MatrixFactors:
        """See :meth:`FactorStrategy.merge`."""
        self.check(operands.weights)
        operands = operands.without_zero_weights()
        total, ridge = self._sum(operands)
        sides = [
            self._times(moments, weight, factors.right.T, ridge).T
            for moments, weight, factors in zip(_moments(operands), operands.weights, operands.factors, strict=True)
        ]
        right = np.linalg.solve(total, np.concatenate(sides, axis=1))
        return MatrixFactors(np.concatenate([factors.left for factors in operands.factors], axis=1), right)

    def prepare(self, operands: TiledOperands) -> Rows:
        """See :meth:`ElementwiseStrategy.prepare`; it is the same, for what is not known by factors."""
        self.check(operands.weights)
        operands = operands.without_zero_weights()
        total, ridge = self._sum(operands)
        inverse = np.linalg.inv(total)

        def rows(start: int, stop: int) -> Array:
            mixed: Array = np.zeros((stop - start, operands.shape[1]))
            for moments, weight, variant in zip(_moments(operands), operands.weights, operands.rows, strict=True):
                mixed += self._times(moments, weight, variant(start, stop), ridge)
            merged: Array = mixed @ inverse
            return merged

        return rows

    def _times(self, moments: Array, weight: Fraction, rows: Array, ridge: float) -> Array:
        """Return ``rows @ (w G + ridge w I)`` with the off-diagonal of ``G`` scaled, in the order of `rows`."""
        alpha, diagonal = float(self.alpha), widen(np.diagonal(moments))
        product: Array = alpha * (rows @ widen(moments)) + rows * ((1 - alpha) * diagonal + ridge)
        return float(weight) * product

    def _sum(self, operands: Operands) -> tuple[Array, float]:
        """Return ``sum w_i (G_i + ridge I)`` with the off-diagonals scaled, and the ridge."""
        alpha, size = float(self.alpha), operands.shape[1]
        total, diagonal = np.zeros((size, size)), np.zeros(size)
        for moments, weight in zip(_moments(operands), operands.weights, strict=True):
            total += float(weight) * alpha * widen(moments)
            diagonal += float(weight) * widen(np.diagonal(moments))
        share = float(sum(operands.weights))
        mean = float(diagonal.mean()) / share if size else 0.0
        ridge = _RIDGE * mean if mean > 0 else 1.0
        np.fill_diagonal(total, diagonal + ridge * share)
        return total, ridge


def _moments(operands: Operands) -> Sequence[Array]:
    size = operands.shape[1]
    statistics = operands.statistics
    if statistics is None or any(matrix.shape != (size, size) for matrix in statistics):
        raise UsageError(
            f"There are no second moments of the {size} inputs of '{operands.tensor}' for every variant.",
            hint="Measure them for every variant, on its own data.",
        )
    return statistics
