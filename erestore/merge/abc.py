"""The contract of a merge strategy.

Every variant is seen as its difference from the base, and the result is one too. A strategy is of one of three kinds, by
what it needs:

* ``linear``: it chooses a coefficient for each variant, one for the whole model; the merge is a manifest;
* ``elementwise``: an entry of the result depends on the same entry of the variants, so that row tiles suffice, if need be
  after a pass over each variant of the tensor;
* ``factors``: it takes the variants' factors of a matrix and returns those of the result. It never makes the matrix.

A strategy is a frozen dataclass whose fields are its configuration, stored as ``{"name", "configuration"}`` in the recipe of
a commit. It is arithmetic: it never sees a store, a path or a commit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, Self

from erestore.errors import UsageError
from erestore.merge.configuration import configuration_of, parse
from erestore.merge.operands import FactoredOperands, MatrixFactors, Rows, TiledOperands

Kind = Literal["linear", "elementwise", "factors"]


@dataclass(frozen=True)
class MergeStrategy(ABC):
    """A way to merge variants of one base; the fields of a subclass are its parameters, of type Fraction, int or str.

    Attributes
    ----------
    name : str
        As a recipe records it.
    needs : str
        Statistics of each variant that it cannot do without: ``fisher``, ``moments`` or none.
    """

    name: ClassVar[str]
    needs: ClassVar[Literal["", "fisher", "moments"]] = ""

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What it works on."""

    def check(self, weights: Sequence[Fraction]) -> None:
        """Make sure that the strategy fits the number of variants and their weights, before anything is read.

        Raises
        ------
        UsageError
        """
        if not weights:
            raise UsageError("There is nothing to merge.", hint="Name variants.")

    @classmethod
    def configured(cls, options: Mapping[str, Any]) -> Self:
        """Return the strategy with parameters as text, or as :meth:`configuration` returned them.

        Raises
        ------
        UsageError
            If there is no such parameter, or it cannot have the value.
        """
        return cls(**parse(cls, cls.name, options))

    def configuration(self) -> dict[str, Any]:
        """Return the parameters as JSON without floats."""
        return configuration_of(self)

    def to_record(self) -> dict[str, Any]:
        """Return ``{"name", "configuration"}``."""
        return {"name": self.name, "configuration": self.configuration()}


class ElementwiseStrategy(MergeStrategy):
    """A function of the same entry of every variant."""

    @property
    def kind(self) -> Kind:
        """See :attr:`MergeStrategy.kind`."""
        return "elementwise"

    @abstractmethod
    def prepare(self, operands: TiledOperands) -> Rows:
        """Make the passes over a tensor that its result needs, and return the result.

        Returns
        -------
        Callable
            Evaluates rows of the merged difference. The values do not depend on the tiles asked for; what is held meanwhile
            is a few times the tile, for any number of variants.

        Raises
        ------
        UsageError
            See :meth:`MergeStrategy.check`.
        """


class FactorStrategy(MergeStrategy):
    """A function of the factors of one matrix."""

    @property
    def kind(self) -> Kind:
        """See :attr:`MergeStrategy.kind`."""
        return "factors"

    @abstractmethod
    def merge(self, operands: FactoredOperands) -> MatrixFactors:
        """Return factors of the merged difference; of columns ``(m, 0)`` and ``(n, 0)`` where it vanishes.

        Raises
        ------
        UsageError
            See :meth:`MergeStrategy.check`.
        """

    @abstractmethod
    def fallback(self) -> MergeStrategy:
        """Return the strategy, linear or elementwise, for what is not a matrix: biases, gains, scalars."""
