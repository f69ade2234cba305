"""What strategies on factors do with tensors that have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from erestore.merge.linear import Gram, LinearStrategy, normalised


@dataclass(frozen=True)
class ScaledMean(LinearStrategy):
    """``scale * w_i / sum(w)``. It is part of other strategies, and none that users name.

    Attributes
    ----------
    scale : Fraction
    """

    name = "scaled-mean"
    scale: Fraction = Fraction(1)

    def coefficients(self, weights: Sequence[Fraction], gram: Gram) -> list[Fraction]:  # noqa: ARG002
        """See :meth:`LinearStrategy.coefficients`."""
        return [self.scale * weight for weight in normalised(weights)]
