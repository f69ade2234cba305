"""Core space: common bases of the variants of a matrix, and the small matrices that they are in them.

With ``U`` a basis of all left factors and ``V`` one of all right factors, ``A_i B_i^T = U M_i V^T`` without loss, and the
cores ``M_i`` are merged in place of the matrices. They are as large as the ranks of all variants together.

The bases are singular vectors of the factors side by side, ``[A_1 ... A_N]`` and ``[B_1 ... B_N]``. What an elementwise merge
makes of the cores depends on the bases, and these on the factors, of which a matrix has many. The paper takes those of the
LoRA as trained; here every matrix is first given balanced ones (``U sqrt(S)`` and ``V sqrt(S)``), so that the result depends
on the variants and not on how they are stored.

Source: Panariello et al. 2025, "Accurate and Efficient Low-Rank Model Merging in Core Space", arXiv 2509.17786, section 3: the
reference bases, the core matrices and their alignment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from erestore.arrays import Array
from erestore.merge.factored_svd import balanced, basis
from erestore.merge.operands import FactoredOperands, MatrixFactors, Rows, TiledOperands
from erestore.merge.tiles import rows_of


class Cores(NamedTuple):
    """Variants of a matrix in common bases.

    Attributes
    ----------
    left, right : ndarray
        Float64 ``(m, k)`` and ``(n, l)``, orthonormal columns.
    cores : tuple of ndarray
        Float64 ``(k, l)``.
    """

    left: Array
    right: Array
    cores: tuple[Array, ...]

    def restored(self, core: Array) -> MatrixFactors:
        """Return factors of the matrix that a core stands for."""
        if core.shape[0] <= core.shape[1]:
            return MatrixFactors(self.left, self.right @ core.T)
        return MatrixFactors(self.left @ core, self.right)


def project(factors: tuple[MatrixFactors, ...]) -> Cores:
    """Return variants in their core space."""
    even = [balanced(variant) for variant in factors]
    left, right = (basis(np.concatenate(sides, axis=1)) for sides in zip(*even, strict=True))
    return Cores(left, right, tuple((left.T @ variant.left) @ (right.T @ variant.right).T for variant in even))


def merge_tiled(operands: FactoredOperands, prepare: Callable[[TiledOperands], Rows]) -> MatrixFactors:
    """Merge the cores of variants by what works on row tiles."""
    projected = project(tuple(operands.factors))
    shape = (projected.left.shape[1], projected.right.shape[1])
    tiled = TiledOperands(
        tensor=operands.tensor,
        shape=shape,
        labels=operands.labels,
        weights=operands.weights,
        rows=[rows_of(core) for core in projected.cores],
    )
    return projected.restored(prepare(tiled)(0, shape[0]))
