"""``lowrank``: integer factors whose products are summed exactly.

Value: ``sum over groups g of 2**e_g * sum over k in g of c_k * P[:, k] Q[:, k]^T`` with integer codes ``P (m x r)`` and
``Q (n x r)``, integer multipliers ``c_k = a_k * 2**s_k`` and a shared exponent ``e_g``. A group is *proven* by the encoder,
and checked by the decoder, to satisfy ``sum c_k * max|P_k| * max|Q_k| < 2**53``: every product and every partial sum, in any
order, is an integer that float64 holds exactly, so any BLAS, thread count or device gives the same bits. Groups are added
in stored order.

Components are stored in bands (columns 0-1, 2-3, 4-7, 8-15, ...), largest first, one part a band: a prefix of the bands is a
section of lower rank. A part holds ``a`` (uint16: low bytes, then high bytes), ``s`` (uint8), widths (uint8: index into the
width table, P in the low nibble, Q in the high), then the packed columns of P in ascending order of width, then those of Q.

Parameters: ``rank``, ``groups`` as ``[[components, exponent], ...]``.

Read for ever and no longer written: :mod:`erestore.residual.codecs.lowrank2` has the same factors in fewer bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from erestore.arrays import Array
from erestore.errors import CorruptionError
from erestore.residual import code_packing
from erestore.residual.codecs.abc import ALL_ROWS, Codec, Parameters, Section
from erestore.residual.dyadic import EXPONENT_LIMIT

EXACT_LIMIT = 2**53
"""Integers of float64 are exact below this."""
SHIFT_LIMIT = 48


@dataclass(frozen=True)
class Codes:
    """Integer factors and multipliers of one matrix.

    Attributes
    ----------
    left, right : ndarray
        Integer ``P (m, r)`` and ``Q (n, r)``.
    mantissas, shifts : ndarray
        Int64 ``(r,)``: ``a_k`` in [1, 2**16) and ``s_k`` in [0, 48].
    groups : tuple of (int, int)
        Number of components and exponent of each group.
    """

    left: Array
    right: Array
    mantissas: Array
    shifts: Array
    groups: tuple[tuple[int, int], ...]

    @property
    def rank(self) -> int:
        """Number of components."""
        return int(self.left.shape[1])

    def multipliers(self) -> Array:
        """Return ``2**e * c``, float64 ``(r,)``; a power of two changes no product's exactness."""
        exponents = [exponent for components, exponent in self.groups for _ in range(components)]
        multipliers: Array = np.ldexp(
            self.mantissas.astype(np.float64), self.shifts + np.array(exponents, dtype=np.int64)
        )
        return multipliers

    def sides(self, rows: slice = ALL_ROWS) -> tuple[Array, Array]:
        """Return `rows` of ``P``, and ``Q`` times the multipliers, float64."""
        return self.left[rows].astype(np.float64), self.right * self.multipliers()


def cut_groups(
    mantissas: Sequence[int], exponents: Sequence[int], largest: Sequence[int]
) -> tuple[tuple[tuple[int, int], ...], list[int]]:
    """Cut components into groups that float64 sums exactly.

    Parameters
    ----------
    mantissas, exponents : sequence of int
        Multipliers ``a * 2**e``.
    largest : sequence of int
        Product of the largest absolute codes of each component.

    Returns
    -------
    groups : tuple of (int, int)
        Number of components and exponent.
    shifts : list of int
        Of every component over its group's exponent.
    """
    groups: list[tuple[int, int]] = []
    shifts: list[int] = []
    start = 0
    while start < len(mantissas):
        low = high = exponents[start]
        bound, stop = mantissas[start] * largest[start], start + 1
        assert bound < EXACT_LIMIT
        while stop < len(mantissas):
            lower, higher = min(low, exponents[stop]), max(high, exponents[stop])
            if higher - lower > SHIFT_LIMIT:
                break
            grown = (bound << (low - lower)) + (mantissas[stop] * largest[stop] << (exponents[stop] - lower))
            if grown >= EXACT_LIMIT:
                break
            low, high, bound, stop = lower, higher, grown, stop + 1
        groups.append((stop - start, low))
        shifts += [exponents[k] - low for k in range(start, stop)]
        start = stop
    return tuple(groups), shifts


def largest_codes(side: Array) -> Array:
    """Return int64 ``(r,)``: the largest absolute code of each column."""
    if not side.size:
        return np.zeros(side.shape[1], dtype=np.int64)
    largest: Array = np.maximum(side.max(axis=0).astype(np.int64), -side.min(axis=0).astype(np.int64))
    return largest


def bands(rank: int) -> Iterator[tuple[int, int]]:
    """Yield the column range of every band: 0-1, 2-3, 4-7, 8-15, ... cut at `rank`."""
    start, stop = 0, 2
    while start < rank:
        yield start, min(stop, rank)
        start, stop = stop, stop * 2


@dataclass(frozen=True)
class LowRankSection(Section):
    """Decoded integer factors.

    Attributes
    ----------
    shape : tuple of int
    codes : Codes
    """

    shape: tuple[int, int]
    codes: Codes

    def __post_init__(self) -> None:
        """Refuse groups that are not proven exact."""
        codes, start = self.codes, 0
        largest = [largest_codes(side).tolist() for side in (codes.left, codes.right)]
        for components, exponent in codes.groups:
            members = range(start, start + components)
            multipliers = [int(codes.mantissas[k]) << int(codes.shifts[k]) for k in members]
            bound = sum(c * largest[0][k] * largest[1][k] for c, k in zip(multipliers, members, strict=True))
            if bound >= EXACT_LIMIT or abs(exponent) > EXPONENT_LIMIT:
                raise CorruptionError("A low-rank group does not sum exactly.")
            start += components

    @cached_property
    def _prepared(self) -> tuple[tuple[Array, Array], ...]:
        """Each group's P, integer, and Q^T times the multipliers, float64."""
        ends = list(accumulate((components for components, _ in self.codes.groups), initial=0))
        right = self.codes.right.T * self.codes.multipliers()[:, None]
        return tuple((self.codes.left[:, start:stop], right[start:stop]) for start, stop in pairwise(ends))

    def rows(self, start: int, stop: int, base: Array) -> Array:
        """Evaluate rows ``start:stop``; see :meth:`Section.rows`."""
        total: Array | None = None
        for left, right in self._prepared:
            product: Array = left[start:stop].astype(np.float64) @ right
            total = product if total is None else np.add(total, product, out=total)
        return np.zeros(base.shape) if total is None else total

    @property
    def components(self) -> int:
        """The rank."""
        return self.codes.rank

    def factors(self, rows: slice = ALL_ROWS) -> tuple[Array, Array]:
        """Return float64 factors; see :meth:`Section.factors`."""
        return self.codes.sides(rows)

    def integers(self, rows: slice = ALL_ROWS) -> tuple[Array, Array, Array]:
        """Return codes and multipliers; see :meth:`Section.integers`."""
        return self.codes.left[rows], self.codes.right, self.codes.multipliers()

    def leading(self, rank: int) -> LowRankSection:
        """Return the section of the first components; see :meth:`Section.leading`."""
        codes = self.codes
        if codes.rank <= rank:
            return self
        left, right, mantissas, shifts = (
            array[..., :rank] for array in (codes.left, codes.right, codes.mantissas, codes.shifts)
        )
        return LowRankSection(self.shape, Codes(left, right, mantissas, shifts, leading_groups(codes.groups, rank)))


class LowRank(Codec):
    """See the module's docstring."""

    name = "lowrank"
    progressive = True

    @classmethod
    def decode(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> LowRankSection:
        """Read a section; with fewer parts than bands, the section of lower rank that they hold."""
        rank, groups = read_parameters(parameters, shape)
        m, n = shape
        ranges = list(bands(rank))[: len(parts)]
        if len(parts) > len(ranges):
            raise CorruptionError("A low-rank section has more parts than bands.")
        columns = [_read_band(part, stop - start, m, n) for part, (start, stop) in zip(parts, ranges, strict=True)]
        rank_read = ranges[-1][1] if ranges else 0
        empty = (np.zeros((0, m), np.int8), np.zeros((0, n), np.int8), np.zeros(0, np.int64), np.zeros(0, np.int64))
        sides = [np.concatenate(column) for column in zip(empty, *columns, strict=True)]
        left, right, mantissas, shifts = sides[0].T, sides[1].T, sides[2], sides[3]
        return LowRankSection(shape, Codes(left, right, mantissas, shifts, leading_groups(groups, rank_read)))

    @classmethod
    def leading_parts(cls, parameters: Parameters, parts: int, shape: tuple[int, int], rank: int) -> tuple[int, int]:
        """See :meth:`Codec.leading_parts`."""
        full, used = count_bands(bands(read_parameters(parameters, shape)[0]), rank)
        return min(full, parts), min(used, parts)


def count_bands(ranges: Iterable[tuple[int, int]], rank: int) -> tuple[int, int]:
    """Return how many bands the first `rank` components fill, and how many they are in."""
    bands = list(ranges)
    return sum(stop <= rank for _, stop in bands), sum(start < rank for start, _ in bands)


def leading_groups(groups: Sequence[tuple[int, int]], rank: int) -> tuple[tuple[int, int], ...]:
    """Cut groups to the first `rank` components."""
    leading = []
    for components, exponent in groups:
        if rank > 0:
            leading.append((min(components, rank), exponent))
        rank -= components
    return tuple(leading)


def read_parameters(parameters: Parameters, shape: tuple[int, int]) -> tuple[int, list[tuple[int, int]]]:
    """Return rank and groups of a section's parameters."""
    rank: Any = parameters.get("rank")
    groups: Any = parameters.get("groups")
    valid = (
        set(parameters) == {"rank", "groups"}
        and type(rank) is int
        and 0 <= rank <= min(shape)
        and isinstance(groups, list)
        and all(isinstance(g, list) and len(g) == 2 and all(type(v) is int for v in g) and g[0] > 0 for g in groups)
        and sum(g[0] for g in groups) == rank
    )
    if not valid:
        raise CorruptionError("A low-rank section's parameters are malformed.")
    return rank, [(g[0], g[1]) for g in groups]


def _read_band(content: bytes, columns: int, m: int, n: int) -> tuple[Array, ...]:
    """Return P^T and Q^T (columns, length), mantissas and shifts of one band."""
    if len(content) < 4 * columns:
        raise CorruptionError("A low-rank band is shorter than its header.")
    head = np.frombuffer(content, np.uint8, 4 * columns).reshape(4, columns).astype(np.int64)
    mantissas, shifts, position = head[0] | (head[1] << 8), head[2], 4 * columns
    if int(shifts.max()) > SHIFT_LIMIT or int(mantissas.min()) < 1:
        raise CorruptionError("A low-rank multiplier is out of range.")
    sides = []
    view = memoryview(content)
    for indices, length in ((head[3] & 0xF, m), (head[3] >> 4, n)):
        if int(indices.max()) >= len(code_packing.WIDTHS):
            raise CorruptionError("A low-rank column has an unknown width.")
        side = np.zeros((columns, length), dtype=code_packing.integer_type(code_packing.WIDTHS[int(indices.max())]))
        for index, width in enumerate(code_packing.WIDTHS):
            mask = indices == index
            number = int(mask.sum())
            size = number * code_packing.packed_size(length, width)
            if number:
                codes = code_packing.unpack(view[position : position + size], number, length, width)
                side[mask] = codes
            position += size
        sides.append(side)
    if position != len(content):
        raise CorruptionError("A low-rank band is longer than its codes.")
    return sides[0], sides[1], mantissas, shifts
