"""What is measured of a difference whose rows come one block after the other, so that it is never held whole."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from erestore.residual.spectrum import RowGram, singular_values


class Sides(NamedTuple):
    """Norms of the rows, ``(m,)``, and of the columns, ``(n,)``, of a matrix, float64."""

    rows: torch.Tensor
    columns: torch.Tensor


class Measurement:
    """Norm, spectrum, and norms of rows and columns of a difference; and the norm of what it is from.

    Of a matrix with more rows than columns only the Gram matrix of the columns is held; a wider one is held whole.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._rows = torch.zeros(shape[0], dtype=torch.float64)
        self._columns = torch.zeros(shape[1], dtype=torch.float64)
        self._before: list[float] = []
        self._gram: RowGram | None = None
        self._whole: torch.Tensor | None = None

    def add(self, start: int, change: torch.Tensor, before: torch.Tensor | None = None) -> None:
        """Take some rows.

        Parameters
        ----------
        start : int
        change : torch.Tensor, shape (any, n), float64
            Rows of the difference from `start` on.
        before : torch.Tensor, shape (any, n), float64, optional
            The same rows of what it is from.
        """
        stop = start + len(change)
        if before is not None:
            self._before.append(float(before.square().sum()))
        squares = change.square()
        self._rows[start:stop] = squares.sum(dim=1)
        # Rows without a difference add nothing: of a tensor that did not change, and of most of an embedding.
        if min(self._shape) < 2 or not bool(self._rows[start:stop].any()):
            return
        self._columns += squares.sum(dim=0)
        if not math.isfinite(float(self._rows[start:stop].sum())):
            return
        if self._shape[0] < self._shape[1]:
            if self._whole is None:
                self._whole = torch.zeros(self._shape, dtype=torch.float64)
            self._whole[start:stop] = change
        else:
            self._gram = self._gram or RowGram(self._shape[1])
            moved = self._rows[start:stop] > 0
            self._gram.add(change if bool(moved.all()) else change[moved])

    @property
    def norm(self) -> float:
        """Norm of the difference; not finite where a value is not."""
        return math.sqrt(math.fsum(self._rows.tolist()))

    @property
    def norm_before(self) -> float:
        """Norm of what it is from."""
        return math.sqrt(math.fsum(self._before))

    def singular_values(self) -> torch.Tensor | None:
        """Return all singular values of a finite difference, float64, descending; None for vectors and where there is none."""
        if self._whole is not None:
            return singular_values(self._whole)
        return self._gram.singular_values() if self._gram is not None else None

    def sides(self) -> Sides | None:
        """Return the norms of rows and columns; None for vectors."""
        return Sides(self._rows.sqrt(), self._columns.sqrt()) if min(self._shape) > 1 else None
