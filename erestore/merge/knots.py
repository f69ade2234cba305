"""``knots``: variants merged as the right singular vectors of all of them side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from erestore.arrays import Array
from erestore.merge.abc import MergeStrategy
from erestore.merge.dare import Dare
from erestore.merge.delegate import WrappingStrategy
from erestore.merge.factored_svd import spectrum
from erestore.merge.linear import Average, TaskArithmetic, Weighted
from erestore.merge.operands import FactoredOperands, MatrixFactors, Rows, TiledOperands
from erestore.merge.ties import Ties
from erestore.merge.tiles import tiles


@dataclass(frozen=True)
class Knots(WrappingStrategy):
    """Of ``[D_1 ... D_N] = U S [V_1^T ... V_N^T]`` the ``V_i^T``, each of ``r x n``, are merged; ``U S`` restores the matrix.

    The singular vectors on the right of all variants side by side are never made: with ``A_i = Q R_i`` and ``B_i = Q_i T_i``
    they are ``Q_i`` times those of the small ``[R_1 T_1^T ... R_N T_N^T]``. Components whose singular value is 0 are left
    out (the authors drop those below 1e-5, whatever the size of the others). The text of the paper merges the ``V_i``, as is
    done here; code of its authors merges ``S V_i``, in which trimming keeps other entries.

    Source: Stoica et al. 2024, "Model merging with SVD to tie the Knots", arXiv 2410.19735, section 4.

    Attributes
    ----------
    inner : MergeStrategy
        ``ties`` (by default), ``dare``, ``average``, ``weighted`` or ``task-arithmetic``.
    """

    name = "knots"
    inner: MergeStrategy = field(default_factory=Ties)
    allowed = {kind.name: kind for kind in (Ties, Dare, Average, Weighted, TaskArithmetic)}  # noqa: RUF012 - a ClassVar above
    default = "ties"

    def merge(self, operands: FactoredOperands) -> MatrixFactors:
        """See :meth:`FactorStrategy.merge`."""
        self.check(operands.weights)
        operands = operands.without_zero_weights()
        lefts = np.linalg.qr(np.concatenate([variant.left for variant in operands.factors], axis=1))
        rights = [np.linalg.qr(variant.right) for variant in operands.factors]
        edges = np.cumsum([0, *(variant.left.shape[1] for variant in operands.factors)])
        blocks = [
            lefts.R[:, start:stop] @ side.R.T for side, (start, stop) in zip(rights, pairwise(edges), strict=True)
        ]
        small = np.concatenate(blocks, axis=1)
        components = spectrum(MatrixFactors(small, np.eye(small.shape[1])))
        places = np.cumsum([0, *(block.shape[1] for block in blocks)])
        parts = [components.right[start:stop] for start, stop in pairwise(places)]
        shape = (len(components.values), operands.shape[1])
        tiled = TiledOperands(
            tensor=operands.tensor,
            shape=shape,
            labels=operands.labels,
            weights=operands.weights,
            rows=[_transposed(side.Q, part) for side, part in zip(rights, parts, strict=True)],
        )
        rows, merged = self.prepared(tiled), np.empty(shape)
        for start, stop in tiles(shape):
            merged[start:stop] = rows(start, stop)
        return MatrixFactors(lefts.Q @ (components.left * components.values), merged.T)


def _transposed(basis: Array, part: Array) -> Rows:
    """Return the rows of ``(basis @ part)^T``."""
    return lambda start, stop: part[:, start:stop].T @ basis.T
