"""``dare``: drop entries at random, rescale the others, then merge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from erestore.arrays import Array
from erestore.errors import UsageError
from erestore.merge.configuration import require_choice, require_density
from erestore.merge.masks import kept
from erestore.merge.operands import Rows, TiledOperands
from erestore.merge.sign_election import COMBINE, ELECT, merge_agreeing, require_shares
from erestore.merge.spaces import SpacedStrategy
from erestore.merge.tiles import combination

MERGES = ("linear", "ties")


@dataclass(frozen=True)
class Dare(SpacedStrategy):
    """Keep each entry with probability `density`, divided by it, and merge what is left.

    With the merge ``linear`` the result is ``scale * sum(w_i d_i)``: the weights are not normalised. With ``ties`` signs are
    elected, and nothing is trimmed.

    What is dropped follows from the seed, the variant and the tensor's name, for ever and for any tiles; see
    :mod:`erestore.merge.masks`. mergekit does not divide by the density, but gives what is left the L1 norm that the variant
    had; the paper and PEFT divide.

    Source: Yu et al. 2023, "Language Models are Super Mario", arXiv 2311.03099, section 3 (drop and rescale, with
    ``p = 1 - density``).

    Attributes
    ----------
    density : Fraction
        Share of the entries that are kept, about.
    merge_by : str
        ``linear`` or ``ties``.
    elect, combine : str
        Of ``ties``; see :class:`Ties`.
    scale : Fraction
        What the result is multiplied by.
    seed : int
        Not negative.
    space : str
        ``full``, or ``core``: the same on the cores of a matrix, which is another algorithm.
    """

    name = "dare"
    density: Fraction = Fraction(1, 10)
    merge_by: str = "linear"
    elect: str = "mass"
    combine: str = "mean"
    scale: Fraction = Fraction(1)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_density(self.density)
        require_choice("merge_by", self.merge_by, MERGES)
        require_choice("elect", self.elect, ELECT)
        require_choice("combine", self.combine, COMBINE)
        if self.seed < 0:
            raise UsageError(f"A seed of {self.seed} is negative.", hint="Use 0 or a larger number.")

    def check(self, weights: Sequence[Fraction]) -> None:
        """See :meth:`MergeStrategy.check`."""
        super().check(weights)
        if self.merge_by == "ties":
            require_shares(weights)

    def prepare(self, operands: TiledOperands) -> Rows:
        """See :meth:`ElementwiseStrategy.prepare`."""
        self.check(operands.weights)
        operands = operands.without_zero_weights()
        dropped = replace(operands, rows=list(self._dropped(operands)))
        weights = [float(weight) for weight in operands.weights]
        if self.merge_by == "linear":
            return combination(dropped, [float(self.scale) * weight for weight in weights])

        def rows(start: int, stop: int) -> Array:
            left = (variant(start, stop) for variant in dropped.rows)
            return float(self.scale) * merge_agreeing(left, weights, self.elect, self.combine)

        return rows

    def _dropped(self, operands: TiledOperands) -> Iterator[Rows]:
        """Yield the variants without what is dropped."""
        columns = operands.shape[1]
        for label, variant in zip(operands.labels, operands.rows, strict=True):

            def rows(start: int, stop: int, label: str = label, variant: Rows = variant) -> Array:
                tile = variant(start, stop)
                mask = kept(self.seed, label, operands.tensor, self.density, start * columns, tile.size)
                tile[~mask.reshape(tile.shape)] = 0.0
                tile /= float(self.density)
                return tile

            yield rows
