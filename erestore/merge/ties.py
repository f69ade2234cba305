"""``ties``: trim, elect signs, merge what agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from erestore.arrays import Array
from erestore.merge.configuration import require_choice, require_density
from erestore.merge.operands import Rows, TiledOperands
from erestore.merge.sign_election import COMBINE, ELECT, merge_agreeing, require_shares
from erestore.merge.spaces import SpacedStrategy
from erestore.merge.trim import cutoff


@dataclass(frozen=True)
class Ties(SpacedStrategy):
    """Keep the largest entries of each variant, elect a sign for each entry, and merge the entries that have it.

    The paper trims the whole model by one threshold; here, as in PEFT and mergekit, every tensor has its own. ``density * m *
    n`` entries are kept, rounded down, but at least one; of equal magnitudes the first in row order are, as in mergekit on a
    CPU. Weights count in the vote and in the mean, as in mergekit; with weights of 1 the result is PEFT's too. (PEFT divides
    the weighted sum by the number of entries and not by their weights, so that weights of 1/2 halve its result.)

    Source: Yadav et al. 2023, "TIES-Merging: Resolving Interference When Merging Models", arXiv 2306.01708, algorithm 1.

    Attributes
    ----------
    density : Fraction
        Share of the entries that are kept; the paper's k.
    elect : str
        ``mass``, the paper's, or ``frequency``.
    combine : str
        ``mean``, the paper's, or ``sum``.
    scale : Fraction
        What the result is multiplied by; the paper's lambda.
    space : str
        ``full``, or ``core``: the same on the cores of a matrix, which is another algorithm.
    """

    name = "ties"
    density: Fraction = Fraction(1, 5)
    elect: str = "mass"
    combine: str = "mean"
    scale: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_density(self.density)
        require_choice("elect", self.elect, ELECT)
        require_choice("combine", self.combine, COMBINE)

    def check(self, weights: Sequence[Fraction]) -> None:
        """See :meth:`MergeStrategy.check`."""
        require_shares(weights)

    def prepare(self, operands: TiledOperands) -> Rows:
        """See :meth:`ElementwiseStrategy.prepare`."""
        self.check(operands.weights)
        operands = operands.without_zero_weights()
        weights = [float(weight) for weight in operands.weights]
        cutoffs = [cutoff(variant, operands.shape, self.density) for variant in operands.rows]

        def rows(start: int, stop: int) -> Array:
            trimmed = (
                threshold.trim(variant(start, stop), start)
                for variant, threshold in zip(operands.rows, cutoffs, strict=True)
            )
            return float(self.scale) * merge_agreeing(trimmed, weights, self.elect, self.combine)

        return rows
