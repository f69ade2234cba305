"""Inner products of matrices that are held as sections.

Between factors ``<A1 B1^T, A2 B2^T> = sum((A1^T A2) o (B1^T B2))``: no matrix of the tensor's size. Where a section has no
factors (remainders, vectors, multiples of the base), or where ranks are so high that it is cheaper, both sides are evaluated
in tiles of rows. Many matrices are multiplied at once: their factors, or their tiles, are stacked into wide ones.

Results are float64; the order of the sums is BLAS's, so that bits may differ between machines. Integer factors are multiplied
in float32 where that is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from erestore.arrays import Array
from erestore.residual.codecs.abc import Section
from erestore.residual.codecs.gamma import GammaSection

Rows = Callable[[int, int], Array]
"""Float64 rows ``start:stop`` of the base's tensor."""

STACK_BYTES = 24 << 20
"""Float64 factors in a stack."""
STACKS = 4
"""Stacks of the second side that are held at a time; the first side is stacked anew for each such batch."""
STACK_COMPONENTS = 1536
"""Their components; products are of this size squared."""
_EXACT_NORM = 0.98 * 2.0**24
"""Squared norm of codes below which their products with others are exact in float32; leaves room for its own rounding."""
TILE_BYTES = 48 << 20
"""Tiles of all matrices that are evaluated at a time."""
TILED = 64
"""Matrices of each side that are tiled at a time."""


@dataclass(frozen=True)
class Matrix:
    """The float64 sum of sections of one tensor, seen as an ``m x n`` matrix.

    Attributes
    ----------
    shape : tuple of int
        Rows below it count as zeros: where a vocabulary shrank, others may have more.
    factored, others : tuple of Section
        Those that have factors, and those that have none.
    """

    shape: tuple[int, int]
    factored: tuple[Section, ...]
    others: tuple[Section, ...]

    @classmethod
    def of(cls, sections: Sequence[Section]) -> Matrix:
        """Look at the sections, at least one, of one tensor of one residual."""
        factored = tuple(section for section in sections if section.components)
        return cls(sections[0].shape, factored, tuple(section for section in sections if section.components is None))

    @property
    def components(self) -> int:
        """Columns of the factors of all sections together."""
        return sum(section.components or 0 for section in self.factored)

    @property
    def needs_base(self) -> bool:
        """Whether a multiple of the base is part of it."""
        return any(isinstance(section, GammaSection) for section in self.others)

    def factors(self, rows: slice = slice(None)) -> Iterator[tuple[Array, Array]]:
        """Yield the float64 factors of every section; see :meth:`erestore.residual.codecs.abc.Section.factors`."""
        for section in self.factored:
            if (factors := section.factors(rows)) is not None:
                yield factors

    def add_rows(self, total: Array, start: int, base: Array | None) -> None:
        """Add to `total` the rows from `start` on; `base` holds the same rows of the base's tensor where they are needed."""
        stop = min(start + len(total), self.shape[0])
        if stop <= start:
            return
        target = total[: stop - start]
        for left, right in self.factors(slice(start, stop)):
            target += left @ right.T
        base = np.broadcast_to(0.0, target.shape) if base is None else base[: stop - start]
        for section in self.others:
            target += section.rows(start, stop, base)


def gram(matrices: Sequence[Matrix], base: Rows | None = None) -> Array:
    """Return the inner products of matrices of one tensor with each other, float64 ``(N, N)``.

    Parameters
    ----------
    matrices : sequence of Matrix
    base : Rows, optional
        The base's tensor, for matrices that need it.
    """
    products = np.zeros((len(matrices), len(matrices)))
    if not matrices:
        return products
    if prefers_factors(matrices, matrices):
        shape, pieces = _shape(matrices, matrices), list(_pieces(matrices))
        for number, one in enumerate(pieces):
            first = _stack(matrices[one], shape)
            for two in pieces[:number]:
                products[one, two] = _by_factors(first, _stack(matrices[two], shape))
            products[one, one] = _by_factors(first, first)
    else:
        pieces = list(_chunks(len(matrices)))
        for number, one in enumerate(pieces):
            for two in pieces[: number + 1]:
                products[one, two] = _by_tiles(matrices[one], None if one == two else matrices[two], base)
    lower = np.tril(products)
    return lower + np.tril(products, -1).T


def cross_products(ones: Sequence[Matrix], twos: Sequence[Matrix], base: Rows | None = None) -> Array:
    """Return the inner products of each of `ones` with each of `twos`, float64 ``(N, M)``; see :func:`gram`."""
    products = np.zeros((len(ones), len(twos)))
    if not (ones and twos):
        return products
    if prefers_factors(ones, twos):
        shape, pieces = _shape(ones, twos), list(_pieces(twos))
        for start in range(0, len(pieces), STACKS):
            seconds = [(two, _stack(twos[two], shape)) for two in pieces[start : start + STACKS]]
            for one in _pieces(ones):
                first = _stack(ones[one], shape)
                for two, second in seconds:
                    products[one, two] = _by_factors(first, second)
    else:
        for one in _chunks(len(ones)):
            for two in _chunks(len(twos)):
                products[one, two] = _by_tiles(ones[one], twos[two], base)
    return products


def prefers_factors(ones: Sequence[Matrix], twos: Sequence[Matrix]) -> bool:
    """Return whether all of them are factors, and of so few components that to multiply those takes fewer operations."""
    if any(matrix.others for matrix in (*ones, *twos)):
        return False
    m, n = _shape(ones, twos)
    first, second = (sum(matrix.components for matrix in side) for side in (ones, twos))
    return (m + n) * first * second <= m * n * (len(ones) * len(twos) + first + second)


def _shape(ones: Sequence[Matrix], twos: Sequence[Matrix]) -> tuple[int, int]:
    """Return the rows that are looked at, beyond which one side is nothing but zeros, and the columns."""
    heights = (max(matrix.shape[0] for matrix in side) for side in (ones, twos))
    return min(heights), ones[0].shape[1]


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, TILED):
        yield slice(start, min(count, start + TILED))


def _pieces(matrices: Sequence[Matrix]) -> Iterator[slice]:
    """Cut matrices into runs whose float64 factors, and products of them, take no more than they should."""
    start, size, components = 0, 0, 0
    for index, matrix in enumerate(matrices):
        bytes_added = 8 * sum(matrix.shape) * matrix.components
        is_full = size + bytes_added > STACK_BYTES or components + matrix.components > STACK_COMPONENTS
        if index > start and is_full:
            yield slice(start, index)
            start, size, components = index, 0, 0
        size += bytes_added
        components += matrix.components
    yield slice(start, len(matrices))


def _by_factors(first: _Stack, second: _Stack) -> Array:
    """Multiply factors."""
    if first.multipliers is None or second.multipliers is None:
        first, second = first.widened(), second.widened()
    total = np.zeros((first.count, second.count))
    if first.places and second.places:
        products = (first.left @ second.left.T).astype(np.float64, copy=False)
        products *= first.right @ second.right.T
        if first.multipliers is not None:
            products *= first.multipliers[:, None]
        rows = np.add.reduceat(products, first.starts, axis=0)
        if second.multipliers is not None:
            rows *= second.multipliers
        total[np.ix_(first.places, second.places)] = np.add.reduceat(rows, second.starts, axis=1)
    return total


@dataclass(frozen=True)
class _Stack:
    """Transposed factors of several matrices below each other, ``(r, m)`` and ``(r, n)``, and where each one's begin.

    Only matrices with a component are in it; of all `count`, `places` says which. With `multipliers` the factors are integers
    in float32 whose inner products, with those of any other such stack, float32 holds exactly, partial sums in any order
    included: by Cauchy and Schwarz they are below ``2**12 * 2**12``. They take half the time.
    """

    count: int
    left: Array
    right: Array
    starts: list[int]
    places: list[int]
    multipliers: Array | None = None

    def widened(self) -> _Stack:
        """Return the same factors in float64, the multipliers among them."""
        if self.multipliers is None:
            return self
        right = self.right * self.multipliers[:, None]
        return _Stack(self.count, self.left.astype(np.float64), right, self.starts, self.places)


def _stack(matrices: Sequence[Matrix], shape: tuple[int, int]) -> _Stack:
    places = [index for index, matrix in enumerate(matrices) if matrix.components]
    ends = list(accumulate((matrices[index].components for index in places), initial=0))
    sections = [section for index in places for section in matrices[index].factored]
    rows = slice(0, shape[0])
    integers = [exact for section in sections if (exact := section.integers(rows)) is not None]
    if len(integers) == len(sections):
        left, right = _fill(((piece[0], piece[1]) for piece in integers), ends[-1], shape, np.dtype(np.float32))
        if max(_largest(left), _largest(right)) < _EXACT_NORM:
            multipliers = np.concatenate([np.zeros(0), *(piece[2] for piece in integers)])
            return _Stack(len(matrices), left, right, ends[:-1], places, multipliers)
    factors = (pair for section in sections if (pair := section.factors(rows)) is not None)
    left, right = _fill(factors, ends[-1], shape, np.dtype(np.float64))
    return _Stack(len(matrices), left, right, ends[:-1], places)


def _fill(
    pairs: Iterable[tuple[Array, Array]], components: int, shape: tuple[int, int], dtype: np.dtype[Any]
) -> tuple[Array, Array]:
    left, right = np.empty((components, shape[0]), dtype), np.empty((components, shape[1]), dtype)
    row = 0
    for own_left, own_right in pairs:
        stop = row + own_left.shape[1]
        left[row:stop, : len(own_left)] = own_left.T
        left[row:stop, len(own_left) :] = 0
        right[row:stop] = own_right.T
        row = stop
    return left, right


def _largest(side: Array) -> float:
    """Return the largest squared norm of a row."""
    return float(np.einsum("ij,ij->i", side, side).max(initial=0.0))


def _by_tiles(ones: Sequence[Matrix], twos: Sequence[Matrix] | None, base: Rows | None) -> Array:
    """Multiply tiles of rows; without `twos`, of `ones` with themselves."""
    rows, columns = _shape(ones, twos or ones)
    count = len(ones) + len(twos or ())
    step = max(1, TILE_BYTES // max(1, 8 * columns * count))
    needs_base = any(matrix.needs_base for matrix in (*ones, *(twos or ())))
    products = np.zeros((len(ones), len(twos or ones)))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        base_rows = base(start, stop) if base is not None and needs_base else None
        first = _tiles(ones, start, (stop - start, columns), base_rows)
        second = first if twos is None else _tiles(twos, start, (stop - start, columns), base_rows)
        products += first @ second.T
    return products


def _tiles(matrices: Sequence[Matrix], start: int, shape: tuple[int, int], base: Array | None) -> Array:
    """Return the rows from `start` on of each matrix, one below the other as vectors."""
    tiles = np.zeros((len(matrices), *shape))
    for matrix, tile in zip(matrices, tiles, strict=True):
        matrix.add_rows(tile, start, base)
    return tiles.reshape(len(matrices), -1)
