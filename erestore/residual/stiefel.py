"""The nearest matrix with orthonormal columns."""

from __future__ import annotations

import torch
from torch import Tensor

_CONDITION_LIMIT = 1e-8
"""Smallest ratio of Gram eigenvalues for which the inverse root is taken directly; it then errs by about 1e-8."""


def project_stiefel(matrix: Tensor) -> Tensor:
    """Return the orthogonal factor of the polar decomposition, the nearest point of the Stiefel manifold.

    ``X (XᵀX)^{-1/2}`` by the eigenvectors of ``XᵀX``; by SVD where the columns are nearly dependent (then the
    nearest point is not unique, and one of them is returned).

    Parameters
    ----------
    matrix : Tensor, shape (m, r) with m >= r, finite

    Returns
    -------
    Tensor, shape (m, r), float64
        Orthonormal columns.

    Notes
    -----
    Source: Fan & Hoffman 1955; ERE appendix B.2.
    """
    columns = matrix.double()
    if not columns.shape[1]:
        return columns
    eigenvalues, eigenvectors = torch.linalg.eigh(columns.T @ columns)
    if eigenvalues[0] > _CONDITION_LIMIT * eigenvalues[-1]:
        inverse_root: Tensor = (eigenvectors * eigenvalues.rsqrt()) @ eigenvectors.T
        return columns @ inverse_root
    left, _, right = torch.linalg.svd(columns, full_matrices=False)
    nearest: Tensor = left @ right
    return nearest
