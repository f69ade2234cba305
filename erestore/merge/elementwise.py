"""Strategies that decide value by value: they take row tiles of the variants' differences from the base.

What a strategy needs of a whole tensor (the magnitude down to which it is trimmed) is found first, one variant at a time, so
that no more than one difference and one tile of all are in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from typing import ClassVar

import numpy as np

from erestore.arrays import Array
from erestore.errors import UsageError


class ElementwiseStrategy(ABC):
    """A way to merge value by value; the fields of a subclass are its parameters.

    Attributes
    ----------
    name : str
    """

    name: ClassVar[str]

    def prepare(self, delta: Array) -> float:  # noqa: ARG002 - for strategies that look at a whole tensor
        """Return what tiles need to know of one variant's whole tensor."""
        return 0.0

    @abstractmethod
    def masks(self, key: str, variants: int) -> list[Masks]:
        """Return what chooses values at random, one a variant; empty where nothing does."""

    @abstractmethod
    def merge(
        self, tiles: Sequence[Array], weights: Sequence[float], prepared: Sequence[float], kept: Sequence[Array]
    ) -> Array:
        """Merge one tile.

        Parameters
        ----------
        tiles : sequence of ndarray
            Differences from the base, float64 ``(rows, n)``, one a variant; may be written to.
        weights : sequence of float
        prepared : sequence of float
            What :meth:`prepare` returned.
        kept : sequence of ndarray
            Of bool, what :meth:`masks` drew for the tile; empty if nothing.
        """


class Masks:
    """Draws which values of a tensor are kept, row by row: the same ones in whatever tiles they are asked for.

    The raw stream of the counter-based generator Philox (Salmon et al. 2011), whose bits numpy promises to keep.

    Parameters
    ----------
    density : Fraction
        How many are kept.
    seed, place : int
        Of the merge; which of its variants.
    key : str
        The tensor.
    """

    def __init__(self, density: Fraction, seed: int, place: int, key: str) -> None:
        digest = blake2b(f"{seed}\0{place}\0{key}".encode(), digest_size=16).digest()
        self._raw = np.random.Philox(key=int.from_bytes(digest, "little"))
        self._limit = min(int(density * 2**53), 2**53)

    def next(self, rows: int, columns: int) -> Array:
        """Return the next rows, bool."""
        drawn = np.asarray(self._raw.random_raw(rows * columns)) >> np.uint64(11)
        found: Array = (drawn < np.uint64(self._limit)).reshape(rows, columns)
        return found


@dataclass(frozen=True)
class Ties(ElementwiseStrategy):
    """TIES-Merging (Yadav et al. 2023, arXiv 2306.01708, algorithm 1), tensor by tensor.

    Of every variant the largest values are kept, as many as `density` says; per value the sign with the larger sum wins; the
    result is `scale` times the mean (by weights) of the values with that sign.

    Attributes
    ----------
    density, scale : Fraction
    """

    name = "ties"
    density: Fraction = Fraction(1, 5)
    scale: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _check_density(self.density)

    def prepare(self, delta: Array) -> float:
        """Return the smallest magnitude that is kept."""
        count = int(self.density * delta.size)
        if count >= delta.size:
            return 0.0
        if not count:
            return np.inf
        magnitudes = np.abs(delta).reshape(-1)
        return float(np.partition(magnitudes, delta.size - count)[delta.size - count])

    def masks(self, key: str, variants: int) -> list[Masks]:  # noqa: ARG002
        """See :meth:`ElementwiseStrategy.masks`."""
        return []

    def merge(
        self,
        tiles: Sequence[Array],
        weights: Sequence[float],
        prepared: Sequence[float],
        kept: Sequence[Array],  # noqa: ARG002
    ) -> Array:
        """See :meth:`ElementwiseStrategy.merge`."""
        for tile, least in zip(tiles, prepared, strict=True):
            tile[np.abs(tile) < least] = 0.0
        return float(self.scale) * elect(tiles, weights)


def elect(tiles: Sequence[Array], weights: Sequence[float]) -> Array:
    """Return the weighted mean of the values that have the sign of the weighted sum; 0 where there are none."""
    total = sum(weight * tile for weight, tile in zip(weights, tiles, strict=True))
    sign = np.sign(total)
    value, weight_sum = np.zeros_like(tiles[0]), np.zeros_like(tiles[0])
    for weight, tile in zip(weights, tiles, strict=True):
        agrees = (np.sign(weight * tile) == sign) & (tile != 0)
        value += np.where(agrees, weight * tile, 0.0)
        weight_sum += np.where(agrees, abs(weight), 0.0)
    return np.divide(value, weight_sum, out=value, where=weight_sum > 0)


@dataclass(frozen=True)
class Dare(ElementwiseStrategy):
    """DARE (Yu et al. 2024, arXiv 2311.03099): values are dropped at random, the others scaled up, then summed by weights.

    Attributes
    ----------
    density : Fraction
        How many values are kept.
    scale : Fraction
    seed : Fraction
        A whole number.
    """

    name = "dare"
    density: Fraction = Fraction(1, 2)
    scale: Fraction = Fraction(1)
    seed: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _check_density(self.density)
        if not self.density:
            raise UsageError("A density of 0 keeps nothing to make up for the rest.")
        if self.seed.denominator != 1:
            raise UsageError(f"A seed of {self.seed} is no whole number.")

    def masks(self, key: str, variants: int) -> list[Masks]:
        """See :meth:`ElementwiseStrategy.masks`."""
        return [Masks(self.density, int(self.seed), place, key) for place in range(variants)]

    def merge(
        self,
        tiles: Sequence[Array],
        weights: Sequence[float],
        prepared: Sequence[float],  # noqa: ARG002
        kept: Sequence[Array],
    ) -> Array:
        """See :meth:`ElementwiseStrategy.merge`."""
        found = np.zeros_like(tiles[0])
        for tile, weight, mask in zip(tiles, weights, kept, strict=True):
            found += weight * np.where(mask, tile, 0.0)
        return float(self.scale / self.density) * found


@dataclass(frozen=True)
class DareTies(Dare):
    """DARE, whose values are then elected by sign as TIES does, instead of summed."""

    name = "dare-ties"

    def merge(
        self,
        tiles: Sequence[Array],
        weights: Sequence[float],
        prepared: Sequence[float],  # noqa: ARG002
        kept: Sequence[Array],
    ) -> Array:
        """See :meth:`ElementwiseStrategy.merge`."""
        dropped = [np.where(mask, tile, 0.0) for tile, mask in zip(tiles, kept, strict=True)]
        return float(self.scale / self.density) * elect(dropped, weights)


def _check_density(density: Fraction) -> None:
    if not 0 <= density <= 1:
        raise UsageError(f"A density of {density} is not between 0 and 1.")
