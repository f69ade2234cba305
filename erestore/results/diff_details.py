"""What a page shows of a spectral diff beyond its numbers: curves, rows, angles; the fields are those of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Spectrum:
    """Singular values at some ranks.

    Attributes
    ----------
    ranks : tuple of int
        From 1 to full rank, ascending, denser at the front.
    change : tuple of float
        Of the difference, over its largest.
    base : tuple of float or None
        Of the base's tensor, over its largest; None where the base has none.
    noise : tuple of float
        Of a matrix of independent values, by the Marchenko-Pastur law, over its largest.
    energy, base_energy : tuple of float
        Share of the squared norm in the components up to each rank; the second is None where `base` is.
    """

    ranks: tuple[int, ...]
    change: tuple[float, ...]
    base: tuple[float, ...] | None
    noise: tuple[float, ...]
    energy: tuple[float, ...]
    base_energy: tuple[float, ...] | None


@dataclass(frozen=True)
class Line:
    """A row or a column of a difference.

    Attributes
    ----------
    index : int
    share : float
        Of the tensor's squared change.
    token : str or None
        Of a row of an embedding: what it stands for.
    """

    index: int
    share: float
    token: str | None = None


@dataclass(frozen=True)
class TensorStorage:
    """How the second side's own residual stores one tensor.

    Attributes
    ----------
    sections : tuple of str
        Kinds, in the order in which they are summed.
    rank : int or None
        Components of its factors.
    bytes : int
        About how many stored bytes it takes.
    bits : float
        The same in bits for each element.
    relative_error : float or None
        Share of the squared change that was lost; None where nothing changed.
    """

    sections: tuple[str, ...]
    rank: int | None
    bytes: int
    bits: float
    relative_error: float | None


@dataclass(frozen=True)
class Angles:
    """How the changes of two variants of one base lie to each other, in the components that hold 90 % of each.

    Attributes
    ----------
    rank_a, rank_b : int
        Components.
    columns, rows : tuple of float
        Cosines of the principal angles between column spaces and between row spaces, descending, at most 32.
    column_chance, row_chance : float
        Mean squared cosine of spaces that know nothing of each other.
    cosine : float or None
        Between the two changes themselves.
    """

    rank_a: int
    rank_b: int
    columns: tuple[float, ...]
    rows: tuple[float, ...]
    column_chance: float
    row_chance: float
    cosine: float | None


@dataclass(frozen=True)
class TensorDetails:
    """More about one tensor.

    Attributes
    ----------
    spectrum : Spectrum or None
        None where there is no difference, and for vectors.
    rows, columns : tuple of Line
        Those that moved most, the first in front; empty where no value was read.
    kept : TensorStorage or None
        None where the second side's commit did not encode it.
    angles : Angles or None
        None unless both sides are variants of one base that both changed the tensor.
    """

    spectrum: Spectrum | None
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    kept: TensorStorage | None
    angles: Angles | None


Details = Mapping[str, TensorDetails]
"""By the name of the tensor in the diff."""
