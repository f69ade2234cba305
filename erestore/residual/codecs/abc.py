"""The contract of a residual codec.

A *section* is one encoded part of one tensor: a codec's name, JSON parameters without floats, and *parts* of bytes in
bands (band 0 is always needed; a prefix of the bands of a low-rank section is one of lower rank). The value of a
residual's tensor is the float64 sum of its sections in stored order.

A tensor is seen as a matrix: shape ``(d0, d1, ...)`` as ``d0 x (d1 * ...)``, a vector as one row, a scalar as 1 x 1.

Evaluation is fixed for ever: for a codec with ``reproducible = True``, :meth:`Section.rows` returns the same bits on
every machine, thread count and tiling, and two codecs share a name only if they are interchangeable. A codec is
arithmetic: it never sees a store, a path or a commit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from erestore.arrays import Array
from erestore.residual.runs import RunGroup

Parameters = Mapping[str, Any]
"""JSON object without floats."""

ALL_ROWS = slice(None)


class EncodedPart(NamedTuple):
    """Bytes of one band of a section; `layout` tells the entropy stage where runs of integers are in them."""

    band: int
    content: bytes
    layout: tuple[RunGroup, ...] = ()


@dataclass(frozen=True)
class EncodedSection:
    """What an encoder returns and a residual object stores."""

    codec: str
    parameters: Parameters
    parts: tuple[EncodedPart, ...]

    @property
    def size(self) -> int:
        """Bytes of all parts before the entropy stage."""
        return sum(len(part.content) for part in self.parts)


class Section(ABC):
    """A decoded section of an ``m x n`` matrix, ready for evaluation.

    Attributes
    ----------
    shape : tuple of int
        ``(m, n)``.
    """

    shape: tuple[int, int]

    @abstractmethod
    def rows(self, start: int, stop: int, base: Array) -> Array:
        """Evaluate rows ``start:stop``.

        Parameters
        ----------
        start, stop : int
        base : ndarray
            Float64 ``(stop - start, n)``: the same rows of the base's tensor, which only ``gamma`` uses.

        Returns
        -------
        ndarray
            Float64 ``(stop - start, n)``, new: the caller may modify it.
        """

    @property
    def components(self) -> int | None:
        """How many columns the factors have; None where the section has no factors."""
        return None

    def factors(self, rows: slice = ALL_ROWS) -> tuple[Array, Array] | None:  # noqa: ARG002 - for sections that have factors
        """Return float64 ``A (m, r)`` and ``B (n, r)`` with value ``A @ B.T``, or None where the section has no factors.

        Parameters
        ----------
        rows : slice
            Which rows of ``A`` to return, by default all.
        """
        return None

    def integers(self, rows: slice = ALL_ROWS) -> tuple[Array, Array, Array] | None:  # noqa: ARG002 - for sections of integers
        """Return integer ``P (m, r)`` and ``Q (n, r)`` and float64 ``c (r,)`` with value ``P @ diag(c) @ Q.T``, or None.

        Parameters
        ----------
        rows : slice
            Which rows of ``P`` to return, by default all.
        """
        return None

    def leading(self, rank: int) -> Section:  # noqa: ARG002 - for sections that have components
        """Return the section of the first `rank` components; where there are none, the whole."""
        return self


class Codec(ABC):
    """How sections of one name are decoded.

    Attributes
    ----------
    name : str
        As stored in every section.
    reproducible : bool
        Whether evaluation gives the same bits everywhere. If not, commits carry no digests and cannot be exact.
    progressive : bool
        Whether part `k` is band `k`, so that the first parts alone are a section, of lower rank. If not, a section with a
        part missing is not a section.
    """

    name: ClassVar[str]
    reproducible: ClassVar[bool] = True
    progressive: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def decode(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> Section:
        """Read one section of an ``m x n`` matrix.

        Raises
        ------
        CorruptionError
            If parameters or parts are inconsistent with each other or with `shape`; never anything else.
        """

    @classmethod
    def open(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> Section:
        """Return the section that :meth:`decode` does, to be evaluated by one thread, rows in ascending order.

        Parts may be read as they are needed, and given up again; what is wrong with one is then said when its rows are asked
        for. By default all are decoded at once.

        Raises
        ------
        CorruptionError
            See :meth:`decode`.
        """
        return cls.decode(parameters, parts, shape)

    @classmethod
    def leading_parts(
        cls,
        parameters: Parameters,  # noqa: ARG003 - for codecs that have components
        parts: int,
        shape: tuple[int, int],  # noqa: ARG003
        rank: int,  # noqa: ARG003
    ) -> tuple[int, int]:
        """Return how many of a section's parts the first `rank` components fill, and how many they are in at all.

        By default all, since there are no components; see :meth:`Section.leading`.

        Raises
        ------
        CorruptionError
            If the parameters are malformed.
        """
        return parts, parts
