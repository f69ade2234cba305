"""Matrices that are multiplied with and evaluated in tiles of rows, and never held.

An encoder asks a residual for its spectrum, for products with a few columns, and for tiles of rows to measure what was lost.
A product of factors gives the first two from small matrices; whatever can be evaluated gives all of them tile by tile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from erestore.arrays import Array, as_array, as_tensor
from erestore.residual.spectrum import RowGram, positive_peaks

TILE = 1 << 18
"""Elements of a tile of rows."""
HELD = 1 << 22
"""Most elements of a matrix that is evaluated once and held: 32 MB in float64."""


class ShortSide(NamedTuple):
    """Singular values of a matrix and the singular vectors of its short side.

    Attributes
    ----------
    singular_values : Tensor, shape (r,), float64
        Positive, descending: what is below rounding is left out.
    basis : Tensor, shape (min(m, n), r), float64
    side : {"left", "right"}
        Which side that is: the rows' (``right``) where the matrix is square.
    """

    singular_values: Tensor
    basis: Tensor
    side: Literal["left", "right"]


class Operator(ABC):
    """A real ``m x n`` matrix.

    Attributes
    ----------
    shape : tuple of int
        ``(m, n)``.
    """

    shape: tuple[int, int]

    @abstractmethod
    def rows(self, start: int, stop: int) -> Array:
        """Evaluate rows ``start:stop``, float64; not to be written to."""

    @abstractmethod
    def times(self, x: Tensor) -> Tensor:
        """Return ``self @ x`` for ``x (n, k)``, in its type."""

    @abstractmethod
    def transposed_times(self, x: Tensor) -> Tensor:
        """Return ``self.T @ x`` for ``x (m, k)``, in its type."""

    @property
    @abstractmethod
    def wants_gram(self) -> bool:
        """Whether :meth:`decompose` is to be given the Gram matrix of all rows, from whoever evaluates them anyway."""

    @abstractmethod
    def decompose(self, gram: RowGram | None) -> ShortSide:
        """Return the spectrum.

        Parameters
        ----------
        gram : RowGram or None
            Of all rows, if :attr:`wants_gram`.
        """


def row_tiles(shape: tuple[int, int], elements: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows of about `elements`, at least one row."""
    height = max(1, elements // max(1, shape[1]))
    for start in range(0, shape[0], height):
        yield start, min(shape[0], start + height)


@dataclass(frozen=True, eq=False)
class Product(Operator):
    """``left @ right.T``.

    Attributes
    ----------
    left, right : Tensor, shapes (m, k) and (n, k), float64
    """

    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, left: Array, right: Array) -> Product:
        """Return the product of two arrays, float64."""
        return cls(as_tensor(left), as_tensor(right))

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override] # read-only, which a frozen attribute is too
        """``(m, n)``."""
        return self.left.shape[0], self.right.shape[0]

    def rows(self, start: int, stop: int) -> Array:
        """See :meth:`Operator.rows`."""
        return as_array(self.left[start:stop] @ self.right.T)

    def times(self, x: Tensor) -> Tensor:
        """See :meth:`Operator.times`."""
        return (self.left @ (self.right.T @ x.double())).to(x.dtype)

    def transposed_times(self, x: Tensor) -> Tensor:
        """See :meth:`Operator.transposed_times`."""
        return (self.right @ (self.left.T @ x.double())).to(x.dtype)

    @property
    def _is_thin(self) -> bool:
        """Whether QR of both sides is cheaper than a Gram matrix of the short one."""
        return 2 * self.left.shape[1] < min(self.shape)

    @property
    def wants_gram(self) -> bool:
        """See :attr:`Operator.wants_gram`."""
        return not self._is_thin and self.shape[1] <= self.shape[0]

    def decompose(self, gram: RowGram | None) -> ShortSide:
        """See :meth:`Operator.decompose`; of few columns by QR of both sides and an SVD of the small core."""
        m, n = self.shape
        if gram is not None:
            return _alive(*gram.decompose(), "right")
        if not self._is_thin:
            gram = RowGram(m)
            for start, stop in row_tiles((n, m), TILE):
                gram.add(self.right[start:stop] @ self.left.T)
            return _alive(*gram.decompose(), "left")
        left, right = torch.linalg.qr(self.left), torch.linalg.qr(self.right)
        inner, values, outer = torch.linalg.svd(left.R @ right.R.T)
        floor = max(m, n) * torch.finfo(torch.float64).eps
        rank = int((values > floor * values[0]).sum()) if values.numel() else 0
        short = right.Q @ outer[:rank].T if n <= m else left.Q @ inner[:, :rank]
        return ShortSide(values[:rank], positive_peaks(short), "right" if n <= m else "left")


@dataclass(frozen=True, eq=False)
class Tiled(Operator):
    """What is evaluated in tiles of rows; each pass over the matrix evaluates all of it once.

    Attributes
    ----------
    shape : tuple of int
    evaluate : Callable
        Returns rows ``start:stop``, float64.
    """

    shape: tuple[int, int]
    evaluate: Callable[[int, int], Array]

    @classmethod
    def of(cls, shape: tuple[int, int], evaluate: Callable[[int, int], Array]) -> Tiled:
        """Return the matrix, evaluated now and held if it is small."""
        if shape[0] * shape[1] > HELD:
            return cls(shape, evaluate)
        matrix = np.empty(shape)
        for start, stop in row_tiles(shape, TILE):
            matrix[start:stop] = evaluate(start, stop)
        return cls(shape, lambda start, stop: matrix[start:stop])

    def rows(self, start: int, stop: int) -> Array:
        """See :meth:`Operator.rows`."""
        return self.evaluate(start, stop)

    def times(self, x: Tensor) -> Tensor:
        """See :meth:`Operator.times`."""
        product = torch.empty((self.shape[0], x.shape[1]), dtype=x.dtype)
        for start, stop in row_tiles(self.shape, TILE):
            product[start:stop] = as_tensor(self.evaluate(start, stop)).to(x.dtype) @ x
        return product

    def transposed_times(self, x: Tensor) -> Tensor:
        """See :meth:`Operator.transposed_times`."""
        product = torch.zeros((self.shape[1], x.shape[1]), dtype=torch.float64)
        for start, stop in row_tiles(self.shape, TILE):
            product += as_tensor(self.evaluate(start, stop)).to(x.dtype).T @ x[start:stop]
        return product.to(x.dtype)

    @property
    def wants_gram(self) -> bool:
        """See :attr:`Operator.wants_gram`."""
        return self.shape[1] <= self.shape[0]

    def decompose(self, gram: RowGram | None) -> ShortSide:
        """See :meth:`Operator.decompose`."""
        if gram is not None:
            return _alive(*gram.decompose(), "right")
        gram = RowGram(self.shape[0])
        panels = list(row_tiles(self.shape, HELD))
        for index, (start, stop) in enumerate(panels):
            panel = as_tensor(self.evaluate(start, stop))
            gram.matrix[start:stop, start:stop] = panel @ panel.T
            for first, last in panels[:index]:
                gram.matrix[start:stop, first:last] = panel @ as_tensor(self.evaluate(first, last)).T
        return _alive(*gram.decompose(), "left")


def _alive(values: Tensor, basis: Tensor, side: Literal["left", "right"]) -> ShortSide:
    rank = int(torch.count_nonzero(values))
    return ShortSide(values[:rank], basis[:, :rank], side)
