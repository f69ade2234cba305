"""What variants add to their base, tensor by tensor, as factors or in tiles of rows: never a matrix of the tensor's size.

A variant's terms are a sum of sections. Those that have factors are put side by side; multiples of the base are one number;
and what has neither is evaluated in tiles, together with the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from erestore.arrays import Array, widen, without_warnings
from erestore.encoding.target import Target
from erestore.residual.codecs.abc import Section
from erestore.residual.codecs.gamma import GammaSection
from erestore.residual.operators import Operator, Product, Tiled
from erestore.residual.products import Matrix
from erestore.variant.variant import Terms, Variant, evaluate

if TYPE_CHECKING:
    import torch

FACTORS = 1 << 23
"""Most elements of the factors of a tensor that are put side by side; more are multiplied tile by tile."""

Rows = Callable[[int, int], Array]
"""Rows ``start:stop`` of a base's tensor, in any floating dtype."""


@dataclass(frozen=True, eq=False)
class Difference:
    """What is added to one of the base's tensors, over the rows that count: ``base_multiple * base + rest``.

    Attributes
    ----------
    rest : Operator
    base_multiple : float
    """

    rest: Operator
    base_multiple: float = 0.0


class Differences(ABC):
    """Differences of all tensors of a variant that need not exist; asked by several threads at once."""

    @abstractmethod
    def of(self, target: Target) -> Difference | None:
        """Return what is added to the rows of one tensor that the base has, None where nothing is."""

    @abstractmethod
    def tensor(self, key: str) -> torch.Tensor | None:
        """Return the value of one tensor, whole, in the layout's dtype and shape; None where the variant's own stands."""


@dataclass(frozen=True)
class SummedTerms(Differences):
    """What a variant's terms add up to.

    Attributes
    ----------
    variant : Variant
    """

    variant: Variant

    def of(self, target: Target) -> Difference | None:
        """See :meth:`Differences.of`."""
        terms = self.variant.terms(target.key)
        if not terms:
            return None
        base = self.variant.base_rows(target.key)
        return summed(terms, (target.shared, base.shape[1]), base)

    def tensor(self, key: str) -> None:
        """See :meth:`Differences.tensor`."""


def summed(terms: Terms, shape: tuple[int, int], base: Rows) -> Difference:
    """Add terms up over the rows of `shape`.

    Parameters
    ----------
    terms : Terms
    shape : tuple of int
    base : Rows
    """
    base_multiple, parts = 0.0, []
    for coefficient, sections in terms:
        left: list[Section] = []
        for section in sections:
            if isinstance(section, GammaSection) and section.shape[0] >= shape[0]:
                base_multiple += coefficient * section.factor
            else:
                left.append(section)
        if left:
            parts.append((coefficient, Matrix.of(left)))
    components = sum(matrix.components for _, matrix in parts)
    is_thin = 2 * components < min(shape) and components * sum(shape) <= FACTORS
    if is_thin and not any(matrix.others for _, matrix in parts):
        return Difference(side_by_side(parts, shape), base_multiple)
    return Difference(Tiled.of(shape, _tiles(parts, shape[1], base)), base_multiple)


def side_by_side(parts: Sequence[tuple[float, Matrix]], shape: tuple[int, int]) -> Product:
    """Return the sum of matrices, all of which have factors, over the rows of `shape`."""
    rows, columns = shape
    components = sum(matrix.components for _, matrix in parts)
    left, right, column = np.zeros((rows, components)), np.empty((columns, components)), 0
    for coefficient, matrix in parts:
        for own_left, own_right in matrix.factors(slice(0, rows)):
            stop = column + own_left.shape[1]
            np.multiply(own_left, coefficient, out=left[: len(own_left), column:stop])
            right[:, column:stop] = own_right
            column = stop
    return Product.of(left, right)


def _tiles(parts: Sequence[tuple[float, Matrix]], columns: int, base: Rows) -> Callable[[int, int], Array]:
    needs_base = any(matrix.needs_base for _, matrix in parts)

    def rows(start: int, stop: int) -> Array:
        base_rows = widen(base(start, stop)) if needs_base else None
        total = np.zeros((stop - start, columns))
        with without_warnings():
            for coefficient, matrix in parts:
                value = np.zeros_like(total)
                matrix.add_rows(value, start, base_rows)
                value *= coefficient
                total += value
        return total

    return rows


def evaluated(terms: Terms, columns: int, base: Rows) -> Callable[[int, int], Array]:
    """Return what evaluates rows of the sum of terms as a checkout does, the same bits whatever the tiles."""
    needs_base = any(isinstance(section, GammaSection) for _, sections in terms for section in sections)

    def rows(start: int, stop: int) -> Array:
        base_rows = widen(base(start, stop)) if needs_base else np.broadcast_to(0.0, (stop - start, columns))
        total = np.zeros((stop - start, columns))
        with without_warnings():
            for coefficient, sections in terms:
                end = min(stop, sections[0].shape[0])  # of a vocabulary that shrank
                if end > start:
                    total[: end - start] += coefficient * evaluate(sections, start, end, base_rows[: end - start])
        return total

    return rows
