"""Spectra of weight residuals, through the Gram matrix of the short side.

The eigenvalues of the short side's Gram matrix are the squared singular values, and its eigenvectors the singular
vectors of that side; the other side follows by one product. In float64 that gives every singular value down to a
few 1e-8 of the largest, and it needs a fraction of the time of a full SVD. What lies below the rounding of the Gram
matrix is noise and is set to zero, so that a matrix of low rank has a spectrum that ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_BLOCK_ROWS = 2048
"""Rows of the long side converted at a time: bounds the copy, and costs no speed."""

_STRIPES = 4
"""Column stripes of a Gram product; `eigh` reads the lower triangle only, so 10 of 16 tiles are computed."""


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Singular values of a matrix, and the singular vectors of its short side.

    Attributes
    ----------
    matrix : Tensor, shape (m, n)
        What was decomposed, as it was given.
    singular_values : Tensor, shape (min(m, n),), float64
        Descending; exactly zero from the numerical rank on.
    basis : Tensor, shape (min(m, n), min(m, n))
        Orthonormal columns in the order of the singular values; in each the entry of largest magnitude is positive.
    side : {"left", "right"}
        Whether `basis` holds left singular vectors (m <= n) or right ones.
    """

    matrix: Tensor
    singular_values: Tensor
    basis: Tensor
    side: Literal["left", "right"]

    @property
    def rank(self) -> int:
        """The numerical rank: how many singular values are not zero."""
        return int(torch.count_nonzero(self.singular_values))

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return the best approximation of at most `rank` as two factors, the singular values on the long side.

        Parameters
        ----------
        rank : int
            Clamped to the numerical rank.

        Returns
        -------
        left : Tensor, shape (m, r)
        right : Tensor, shape (n, r)
            ``left @ right.T`` approximates the matrix, in the precision of `basis`.
        """
        short = self.basis[:, : min(rank, self.rank)]
        long = torch.cat([rows @ short for rows in _long_rows(self.matrix, short.dtype)])
        return (short, long) if self.side == "left" else (long, short)

    def vectors(self, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``U, σ, V`` of the best approximation of at most `rank`, with orthonormal columns on both sides.

        Parameters
        ----------
        rank : int
            Clamped to the numerical rank.

        Returns
        -------
        left : Tensor, shape (m, r)
        singular_values : Tensor, shape (r,)
            Column norms of the long side, which are more accurate than roots of eigenvalues.
        right : Tensor, shape (n, r)
        """
        left, right = self.factors(rank)
        long = right if self.side == "left" else left
        # Divided by the roots first: squares of the columns themselves could leave the range of the type.
        values = self.singular_values[: long.shape[1]].to(long.dtype)
        unit = long / values
        lengths = torch.linalg.vector_norm(unit, dim=0)
        values, unit = values * lengths, unit / lengths
        return (left, values, unit) if self.side == "left" else (unit, values, right)


def as_matrix(tensor: Tensor) -> Tensor:
    """Flatten to ``out × rest``, a convolution to ``out × (in·kh·kw)``; a view where it can be."""
    assert tensor.ndim >= 2
    return tensor.flatten(start_dim=1)


def decompose(delta: Tensor, *, precision: torch.dtype = torch.float64) -> Decomposition:
    """Decompose a matrix through the eigenvectors of its short side's Gram matrix.

    Parameters
    ----------
    delta : Tensor, shape (m, n), floating, finite
    precision : torch.dtype
        Arithmetic of the Gram matrix and of the eigenvectors. Singular values are good to ``1e-8 · σ₁`` in float64
        and to about ``1e-3 · σ₁`` in float32, which takes about half the time; the subspaces of what lies well
        above are equally good.
    """
    values, basis = _of_gram(*_gram(delta, precision))
    side: Literal["left", "right"] = "left" if delta.shape[0] <= delta.shape[1] else "right"
    return Decomposition(delta, values, basis, side)


def singular_values(matrix: Tensor) -> Tensor:
    """Return all singular values of a finite matrix, float64, descending, as :func:`decompose` does but sooner."""
    gram, exponent, floor = _gram(matrix, torch.float64)
    return _roots(torch.linalg.eigvalsh(gram), exponent, floor)


def singular_values_of_rows(blocks: Iterable[Tensor], columns: int) -> Tensor:
    """Return what :func:`singular_values` does of a matrix that comes in blocks of rows and is never held.

    Parameters
    ----------
    blocks : iterable of Tensor, shape (any, columns), float64
        All rows, of magnitudes whose squares float64 holds.
    columns : int

    Returns
    -------
    Tensor, shape (columns,), float64
        Descending; with fewer rows than columns, followed by zeros.
    """
    gram = RowGram(columns)
    for rows in blocks:
        gram.add(rows)
    return gram.singular_values()


class RowGram:
    """The float64 Gram matrix of the columns of a matrix that comes in blocks of rows and is never held.

    Parameters
    ----------
    columns : int

    Attributes
    ----------
    matrix : Tensor, shape (columns, columns)
        Its lower triangle; the rest is not filled in.
    """

    def __init__(self, columns: int) -> None:
        self.matrix = torch.zeros(columns, columns, dtype=torch.float64)
        self._floor = _noise_floor(columns, torch.float64)

    def add(self, rows: Tensor) -> None:
        """Take rows, float64 ``(any, columns)``, of magnitudes whose squares float64 holds."""
        _add_gram(self.matrix, rows)

    def singular_values(self) -> Tensor:
        """Return the matrix's singular values, float64, descending, zero below the noise."""
        return _roots(torch.linalg.eigvalsh(self.matrix), 0, self._floor)

    def decompose(self) -> tuple[Tensor, Tensor]:
        """Return these, and the right singular vectors as columns; see :class:`Decomposition`."""
        return _of_gram(self.matrix, 0, self._floor)


def singular_values_of_product(left: Tensor, right: Tensor) -> Tensor:
    """Return the singular values of ``left @ right.T``, which is never formed: QR of both sides, SVD of the small core.

    Parameters
    ----------
    left : Tensor, shape (m, r), float64
    right : Tensor, shape (n, r), float64

    Returns
    -------
    Tensor, shape (min(m, n),), float64
        Descending; zero where they are below rounding, and from ``r`` on.
    """
    length = min(left.shape[0], right.shape[0])
    padded = torch.zeros(length, dtype=torch.float64)
    core = torch.linalg.qr(left, mode="r").R @ torch.linalg.qr(right, mode="r").R.T
    values = torch.linalg.svdvals(core)[:length]
    if values.numel():
        floor = max(left.shape[0], right.shape[0]) * torch.finfo(torch.float64).eps * values[0]
        padded[: len(values)] = torch.where(values > floor, values, 0)
    return padded


def effective_rank(singular_values: Tensor) -> float:
    """Return exp of the Shannon entropy of the singular values scaled to sum to one; 0 for a zero matrix.

    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007; ERE §3.1 divides that of a residual by that of its base.
    """
    positive = singular_values[singular_values > 0].double()
    if not positive.numel():
        return 0.0
    shares = positive / positive.sum()
    return math.exp(float(torch.special.entr(shares).sum()))


def effective_rank_ratio(residual: Tensor, base: Tensor) -> float:
    """Return ``erank(Δθ) / erank(θ)`` (ERE §3.1) from the singular values of both; 0 for a zero base."""
    denominator = effective_rank(base)
    return effective_rank(residual) / denominator if denominator else 0.0


def energy_captured(singular_values: Tensor, ranks: Sequence[int]) -> tuple[float, ...]:
    """Return, for each rank, the share of ``Σσ²`` in the best approximation of that rank; all of nothing is 1."""
    energy = singular_values.double().square()
    total = float(energy.sum())
    if total == 0:
        return (1.0,) * len(ranks)
    return tuple(min(1.0, float(energy[:rank].sum()) / total) for rank in ranks)


def squared_norm(matrix: Tensor) -> float:
    """Return the sum of squares, taken in float64 without a copy of the whole in it."""
    return (
        sum(float(rows.double().square().sum()) for rows in torch.split(matrix, _BLOCK_ROWS)) if matrix.numel() else 0.0
    )


def _long_rows(matrix: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the matrix, long side down, in blocks of rows of the given type; at least one block."""
    tall = matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix
    for start in range(0, max(1, tall.shape[0]), _BLOCK_ROWS):
        yield tall[start : start + _BLOCK_ROWS].to(dtype)


def _gram(matrix: Tensor, dtype: torch.dtype) -> tuple[Tensor, int, float]:
    """Return the short side's Gram matrix (lower triangle) of ``matrix · 2^-exponent``, the exponent, the noise floor.

    The power of two keeps squares inside the range of the type. The floor is relative to the largest eigenvalue: on
    matrices of low rank the largest eigenvalue that should vanish was measured at 1 to 4 eps (sides 7 to 4096).
    """
    size = min(matrix.shape)
    peak = float(matrix.abs().max()) if matrix.numel() else 0.0
    exponent = math.frexp(peak)[1]
    gram = torch.zeros(size, size, dtype=dtype, device=matrix.device)
    for rows in _long_rows(matrix, dtype):
        _add_gram(gram, _times_power(rows, -exponent))
    return gram, exponent, _noise_floor(size, dtype)


def _of_gram(gram: Tensor, exponent: int, floor: float) -> tuple[Tensor, Tensor]:
    """Return singular values and vectors of the side that a scaled Gram matrix is of."""
    eigenvalues, eigenvectors = torch.linalg.eigh(gram)
    return _roots(eigenvalues, exponent, floor), positive_peaks(eigenvectors.flip(1))


def positive_peaks(basis: Tensor) -> Tensor:
    """Return columns with signs such that in each the entry of largest magnitude is positive."""
    if not basis.numel():
        return basis
    peaks = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return torch.where(peaks < 0, -basis, basis)


def _add_gram(gram: Tensor, rows: Tensor) -> None:
    """Add ``rows.T @ rows`` to the lower triangle of `gram`."""
    size = gram.shape[0]
    width = max(1, -(-size // _STRIPES))
    for start in range(0, size, width):
        stripe = rows[:, start : start + width]
        gram[start:, start : start + width].addmm_(rows[:, start:].T, stripe)


def _noise_floor(size: int, dtype: torch.dtype) -> float:
    """Return the eigenvalue, relative to the largest, below which those of a Gram matrix are rounding errors."""
    return max(16.0, math.sqrt(size) / 2) * torch.finfo(dtype).eps


def _roots(eigenvalues: Tensor, exponent: int, floor: float) -> Tensor:
    """Turn ascending eigenvalues of a scaled Gram matrix into descending singular values, zero below the floor."""
    values = eigenvalues.double().flip(0)
    if not values.numel():
        return values
    values = torch.where(values > floor * values[0].clamp(min=0), values, 0)
    return _times_power(values.sqrt(), exponent)


def _times_power(values: Tensor, exponent: int) -> Tensor:
    """Return ``values · 2^exponent``, by two factors because one alone can exceed the range of the type."""
    half = exponent // 2
    return (values * 2.0**half).mul_(2.0 ** (exponent - half))
