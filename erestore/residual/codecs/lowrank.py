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

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from erestore.errors import CorruptionError
from erestore.residual import packing
from erestore.residual.codecs.abc import Codec, Parameters, Section
from erestore.residual.dyadic import EXPONENT_LIMIT

EXACT_LIMIT = 2**53
"""Integers of float64 are exact below this."""
SHIFT_LIMIT = 48


@dataclass(frozen=True)
class Codes:
    """Integer factors and multipliers of one matrix.

    Attributes
    ----------
    left, right : torch.Tensor
        Integer ``P (m, r)`` and ``Q (n, r)``.
    mantissas, shifts : torch.Tensor
        Int64 ``(r,)``: ``a_k`` in [1, 2**16) and ``s_k`` in [0, 48].
    groups : tuple of (int, int)
        Number of components and exponent of each group.
    """

    left: torch.Tensor
    right: torch.Tensor
    mantissas: torch.Tensor
    shifts: torch.Tensor
    groups: tuple[tuple[int, int], ...]

    @property
    def rank(self) -> int:
        """Number of components."""
        return int(self.left.shape[1])

    def sides(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``P`` and ``Q`` times the multipliers, float64."""
        multipliers = torch.ldexp(self.mantissas.to(torch.float64), self.shifts)
        exponents = [exponent for components, exponent in self.groups for _ in range(components)]
        weights = torch.ldexp(multipliers, torch.tensor(exponents, dtype=torch.int64)).to(self.left.device)
        return self.left.to(torch.float64), self.right.to(torch.float64) * weights


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


def largest_codes(side: torch.Tensor) -> torch.Tensor:
    """Return int64 ``(r,)``: the largest absolute code of each column."""
    if not side.numel():
        return torch.zeros(side.shape[1], dtype=torch.int64)
    return torch.maximum(side.amax(dim=0).to(torch.int64), -side.amin(dim=0).to(torch.int64)).cpu()


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

    def _sides(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield each group's P (integer) and ``2**e * c * Q`` (float64): a power of two changes no product's exactness."""
        codes, start = self.codes, 0
        multipliers = torch.ldexp(codes.mantissas.to(torch.float64), codes.shifts)
        for components, exponent in codes.groups:
            columns = slice(start, start + components)
            scaled = codes.right[:, columns].to(torch.float64) * multipliers[columns].to(codes.right.device)
            yield codes.left[:, columns], scaled * math.ldexp(1.0, exponent)
            start += components

    def rows(self, start: int, stop: int, base: torch.Tensor) -> torch.Tensor:
        """Evaluate rows ``start:stop``; see :meth:`Section.rows`."""
        total: torch.Tensor | None = None
        for left, right in self._prepared:
            product = left[start:stop].to(base.device, torch.float64) @ right.to(base.device).T
            total = product if total is None else total.add_(product)
        return torch.zeros_like(base) if total is None else total

    @cached_property
    def _prepared(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        return tuple(self._sides())

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float64 factors; see :meth:`Section.factors`."""
        m, n = self.shape
        if not self._prepared:
            return torch.zeros((m, 0), dtype=torch.float64), torch.zeros((n, 0), dtype=torch.float64)
        left = torch.cat([left.to(torch.float64) for left, _ in self._prepared], dim=1)
        return left, torch.cat([right for _, right in self._prepared], dim=1)

    def leading(self, rank: int) -> LowRankSection:
        """Return the section of the first components; see :meth:`Section.leading`."""
        codes = self.codes
        if codes.rank <= rank:
            return self
        left, right, mantissas, shifts = (
            each[..., :rank] for each in (codes.left, codes.right, codes.mantissas, codes.shifts)
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
        held = ranges[-1][1] if ranges else 0
        left = torch.cat([c[0] for c in columns]).T if columns else torch.zeros((m, 0), dtype=torch.int8)
        right = torch.cat([c[1] for c in columns]).T if columns else torch.zeros((n, 0), dtype=torch.int8)
        mantissas = torch.cat([c[2] for c in columns]) if columns else torch.zeros(0, dtype=torch.int64)
        shifts = torch.cat([c[3] for c in columns]) if columns else torch.zeros(0, dtype=torch.int64)
        return LowRankSection(shape, Codes(left, right, mantissas, shifts, leading_groups(groups, held)))

    @classmethod
    def leading_parts(cls, parameters: Parameters, parts: int, shape: tuple[int, int], rank: int) -> tuple[int, int]:
        """See :meth:`Codec.leading_parts`."""
        full, used = count_bands(bands(read_parameters(parameters, shape)[0]), rank)
        return min(full, parts), min(used, parts)


def count_bands(ranges: Iterable[tuple[int, int]], rank: int) -> tuple[int, int]:
    """Return how many bands the first `rank` components fill, and how many they are in."""
    found = list(ranges)
    return sum(stop <= rank for _, stop in found), sum(start < rank for start, _ in found)


def leading_groups(groups: Sequence[tuple[int, int]], held: int) -> tuple[tuple[int, int], ...]:
    """Cut groups to the first `held` components."""
    kept = []
    for components, exponent in groups:
        if held > 0:
            kept.append((min(components, held), exponent))
        held -= components
    return tuple(kept)


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


def _read_band(content: bytes, columns: int, m: int, n: int) -> tuple[torch.Tensor, ...]:
    """Return P^T and Q^T (columns, length), mantissas and shifts of one band."""
    if len(content) < 4 * columns:
        raise CorruptionError("A low-rank band is shorter than its header.")
    head = torch.frombuffer(bytearray(content[: 4 * columns]), dtype=torch.uint8).view(4, columns).to(torch.int64)
    mantissas, shifts, position = head[0] | (head[1] << 8), head[2], 4 * columns
    if int(shifts.max()) > SHIFT_LIMIT or int(mantissas.min()) < 1:
        raise CorruptionError("A low-rank multiplier is out of range.")
    sides = []
    view = memoryview(content)
    for indices, length in ((head[3] & 0xF, m), (head[3] >> 4, n)):
        if int(indices.max()) >= len(packing.WIDTHS):
            raise CorruptionError("A low-rank column has an unknown width.")
        side = torch.zeros((columns, length), dtype=packing.integer_type(packing.WIDTHS[int(indices.max())]))
        for index, width in enumerate(packing.WIDTHS):
            chosen = indices == index
            number = int(chosen.sum())
            size = number * packing.packed_size(length, width)
            if number:
                codes = packing.unpack(view[position : position + size], number, length, width)
                side[chosen] = codes.to(side.dtype)
            position += size
        sides.append(side)
    if position != len(content):
        raise CorruptionError("A low-rank band is longer than its codes.")
    return sides[0], sides[1], mantissas, shifts
