"""``core-space``: variants merged as their cores in common bases."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from erestore.merge.abc import FactorStrategy, MergeStrategy
from erestore.merge.core import merge_tiled, project
from erestore.merge.dare import Dare
from erestore.merge.delegate import WrappingStrategy
from erestore.merge.iso_c import IsoC
from erestore.merge.linear import Average, TaskArithmetic, Weighted
from erestore.merge.operands import FactoredOperands, MatrixFactors
from erestore.merge.ties import Ties
from erestore.merge.tsv import Tsv


@dataclass(frozen=True)
class CoreSpace(WrappingStrategy):
    """The cores of the variants (see :mod:`erestore.merge.core`), merged by another strategy and brought back.

    With a linear strategy nothing is different from merging the matrices; with ``ties`` or ``dare`` it is what these do in
    ``space=core``; ``tsv`` keeps fewer components, since a core has fewer.

    Source: Panariello et al. 2025, "Accurate and Efficient Low-Rank Model Merging in Core Space", arXiv 2509.17786, section 3.

    Attributes
    ----------
    inner : MergeStrategy
        ``tsv`` (by default), ``iso-c``, ``ties``, ``dare``, ``average``, ``weighted`` or ``task-arithmetic``.
    """

    name = "core-space"
    inner: MergeStrategy = field(default_factory=Tsv)
    allowed = {kind.name: kind for kind in (Tsv, IsoC, Ties, Dare, Average, Weighted, TaskArithmetic)}  # noqa: RUF012 - a ClassVar above
    default = "tsv"

    def merge(self, operands: FactoredOperands) -> MatrixFactors:
        """See :meth:`FactorStrategy.merge`."""
        self.check(operands.weights)
        operands = operands.without_zero_weights()
        if self.inner.kind != "factors":
            return merge_tiled(operands, self.prepared)
        assert isinstance(self.inner, FactorStrategy)
        projected = project(tuple(operands.factors))
        shape = (projected.left.shape[1], projected.right.shape[1])
        cores = [MatrixFactors(core, np.eye(shape[1])) for core in projected.cores]
        left, right = self.inner.merge(replace(operands, shape=shape, factors=cores))
        return MatrixFactors(projected.left @ left, projected.right @ right)
