"""``fisher``: a mean weighted by how much each variant cares for an entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from erestore.arrays import Array, widen
from erestore.errors import UsageError
from erestore.merge.abc import ElementwiseStrategy
from erestore.merge.operands import Rows, TiledOperands
from erestore.merge.sign_election import require_shares


@dataclass(frozen=True)
class Fisher(ElementwiseStrategy):
    """``sum(w_i F_i d_i) / sum(w_i F_i)`` with the diagonal Fisher information ``F_i`` of each variant.

    The same weighted mean of whole weights has the same differences from the base. Information below `floor` counts as
    `floor`, so that an entry that no variant cares for is averaged by weight. Scales of the information matter: to give
    variants equal say, divide each weight by the norm of that variant's information.

    Source: Matena & Raffel 2022, "Merging Models with Fisher-Weighted Averaging", arXiv 2111.09832, section 3 (the closed
    form for diagonal Fisher matrices, ``w_i`` being its lambda).

    Attributes
    ----------
    floor : Fraction
        Positive.
    """

    name = "fisher"
    needs = "fisher"
    floor: Fraction = Fraction(1, 10**6)

    def __post_init__(self) -> None:
        if self.floor <= 0:
            raise UsageError(f"A floor of {self.floor} is not positive.", hint="Use a small number such as 1e-6.")

    def check(self, weights: Sequence[Fraction]) -> None:
        """See :meth:`MergeStrategy.check`."""
        require_shares(weights)

    def prepare(self, operands: TiledOperands) -> Rows:
        """See :meth:`ElementwiseStrategy.prepare`."""
        self.check(operands.weights)
        operands = operands.without_zero_weights()
        statistics = operands.statistics
        if statistics is None or any(matrix.shape != operands.shape for matrix in statistics):
            raise UsageError(
                f"There is no Fisher information of the shape of '{operands.tensor}' for every variant.",
                hint="Give squared gradients for all tensors of every variant.",
            )

        def rows(start: int, stop: int) -> Array:
            total = np.zeros((stop - start, operands.shape[1]))
            mass = np.zeros_like(total)
            for weight, variant, information in zip(operands.weights, operands.rows, statistics, strict=True):
                share = float(weight) * np.maximum(widen(information[start:stop]), float(self.floor))
                total += share * variant(start, stop)
                mass += share
            return total / mass

        return rows
