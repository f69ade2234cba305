"""Strategies that work on entries, either of the tensors or of their cores: two algorithms under one name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from erestore.merge.abc import ElementwiseStrategy, FactorStrategy, Kind, MergeStrategy
from erestore.merge.configuration import require_choice
from erestore.merge.core import merge_tiled
from erestore.merge.operands import FactoredOperands, MatrixFactors

SPACES = ("full", "core")


@dataclass(frozen=True)
class SpacedStrategy(ElementwiseStrategy, FactorStrategy):
    """An elementwise strategy that can be one on cores instead; see :mod:`erestore.merge.core`.

    Attributes
    ----------
    space : str
        ``full``, or ``core``, where its kind is ``factors``.
    """

    space: str = "full"

    def __post_init__(self) -> None:
        require_choice("space", self.space, SPACES)

    @property
    def kind(self) -> Kind:
        """See :attr:`MergeStrategy.kind`."""
        return "factors" if self.space == "core" else "elementwise"

    def merge(self, operands: FactoredOperands) -> MatrixFactors:
        """See :meth:`FactorStrategy.merge`."""
        return merge_tiled(operands.without_zero_weights(), self.prepare)

    def fallback(self) -> MergeStrategy:
        """See :meth:`FactorStrategy.fallback`."""
        return replace(self, space="full")
