"""``iso-c``: the sum of the variants with all singular values made equal."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from erestore.merge.abc import FactorStrategy, MergeStrategy
from erestore.merge.factored_svd import combined, spectrum
from erestore.merge.operands import FactoredOperands, MatrixFactors
from erestore.merge.scaled_mean import ScaledMean


@dataclass(frozen=True)
class IsoC(FactorStrategy):
    """``scale * mean(S) * U V^T`` for the SVD ``U S V^T`` of ``sum(w_i D_i)``.

    The mean is over the rank of the sum, and only those components are made equal: the vectors that a dense SVD has besides
    are arbitrary. For sums of full rank that is the paper's; for LoRA it is Iso-C on the cores (see ``core-space``). All that
    the sum holds becomes equally large, the error of an encoding too. What is not a matrix is averaged, times `scale`.

    Source: Marczak et al. 2025, "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces", arXiv
    2502.04959, section 4 (Iso-C).

    Attributes
    ----------
    scale : Fraction
        What the result is multiplied by; the paper's alpha.
    """

    name = "iso-c"
    scale: Fraction = Fraction(1)

    def fallback(self) -> MergeStrategy:
        """See :meth:`FactorStrategy.fallback`."""
        return ScaledMean(self.scale)

    def merge(self, operands: FactoredOperands) -> MatrixFactors:
        """See :meth:`FactorStrategy.merge`."""
        self.check(operands.weights)
        operands = operands.without_zero_weights()
        components = spectrum(combined(operands.factors, [float(weight) for weight in operands.weights]))
        level = float(components.values.mean()) if len(components.values) else 0.0
        return MatrixFactors(components.left * (float(self.scale) * level), components.right)
