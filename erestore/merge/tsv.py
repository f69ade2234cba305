"""``tsv``: the leading singular components of each variant, made orthogonal to each other."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from erestore.merge.abc import FactorStrategy, MergeStrategy
from erestore.merge.factored_svd import orthogonalised, spectrum
from erestore.merge.operands import FactoredOperands, MatrixFactors
from erestore.merge.scaled_mean import ScaledMean


@dataclass(frozen=True)
class Tsv(FactorStrategy):
    """TSV-Merge: of each of ``N`` variants the ``k = min(m, n) / N`` leading singular components, whitened together.

    With ``U = [U_1 ... U_N]`` and ``V`` likewise, the result is ``scale * U' S V'^T``, where ``U'`` and ``V'`` are the nearest
    matrices with orthonormal columns (orthogonal Procrustes: ``P Q^T`` for the SVD ``P D Q^T``), and ``S`` all singular
    values, each multiplied by its variant's weight. ``k`` is rounded down, but at least 1.

    Components whose singular value is 0 are left out: the vectors of a dense SVD that belong to none are arbitrary, and would
    take part in the whitening. For the same reason directions that variants have in common are whitened within what they
    span; see :func:`orthogonalised`. What is not a matrix is averaged, times `scale`.

    Source: Gargiulo et al. 2025, "Task Singular Vectors: Reducing Task Interference in Model Merging", arXiv 2412.00081,
    section 4 (TSV-Merge) and its algorithm.

    Attributes
    ----------
    scale : Fraction
        What the result is multiplied by; the paper's alpha.
    """

    name = "tsv"
    scale: Fraction = Fraction(1)

    def fallback(self) -> MergeStrategy:
        """See :meth:`FactorStrategy.fallback`."""
        return ScaledMean(self.scale)

    def merge(self, operands: FactoredOperands) -> MatrixFactors:
        """See :meth:`FactorStrategy.merge`."""
        self.check(operands.weights)
        operands = operands.without_zero_weights()
        rank = max(1, min(operands.shape) // len(operands.factors))
        spectra = [spectrum(factors).leading(rank) for factors in operands.factors]
        left, right = (
            orthogonalised(np.concatenate(side, axis=1))
            for side in ([components.left for components in spectra], [components.right for components in spectra])
        )
        values = [
            float(weight) * components.values for weight, components in zip(operands.weights, spectra, strict=True)
        ]
        return MatrixFactors(left * (float(self.scale) * np.concatenate(values)), right)
