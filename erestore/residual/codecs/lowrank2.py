"""``lowrank2``: integer factors whose products are summed exactly, stored as runs of codes.

Value, groups and their proof are those of :mod:`erestore.residual.codecs.lowrank`; multipliers ``c_k = a_k * 2**s_k`` have a
mantissa of one byte, and the bands are columns 0-3, 4-15, 16-63, 64-255, ... A part holds one byte, the bytes of a code (2
or 4), ``a`` and ``s`` (uint8 each), then the columns of P, then those of Q. A column is a run.

Parameters: ``rank``, ``groups`` as ``[[components, exponent], ...]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from erestore.arrays import Array
from erestore.errors import CorruptionError
from erestore.residual.codecs.abc import Codec, EncodedPart, EncodedSection, Parameters
from erestore.residual.codecs.lowrank import (
    SHIFT_LIMIT,
    Codes,
    LowRankSection,
    count_bands,
    leading_groups,
    read_parameters,
)
from erestore.residual.runs import RunGroup

_FIRST_BAND = 4
_WIDTHS: dict[int, np.dtype[Any]] = {2: np.dtype("<i2"), 4: np.dtype("<i4")}


def bands(rank: int) -> Iterator[tuple[int, int]]:
    """Yield the column range of every band: 0-3, 4-15, 16-63, ... cut at `rank`."""
    start, stop = 0, _FIRST_BAND
    while start < rank:
        yield start, min(stop, rank)
        start, stop = stop, 4 * stop


def encode(codes: Codes) -> EncodedSection:
    """Write integer factors as a section."""
    parts = []
    for band, (start, stop) in enumerate(bands(codes.rank)):
        sides = [side[:, start:stop].T for side in (codes.left, codes.right)]
        width = max(2 if side.itemsize <= 2 else 4 for side in sides)
        head = np.stack([codes.mantissas[start:stop], codes.shifts[start:stop]]).astype(np.uint8).tobytes()
        columns = [side.astype(_WIDTHS[width], order="C").tobytes() for side in sides]
        layout = (RunGroup(1, 1, 1 + len(head)), *(RunGroup(width, side.shape[0], side.shape[1]) for side in sides))
        parts.append(EncodedPart(band, b"".join((bytes([width]), head, *columns)), layout))
    parameters = {"rank": codes.rank, "groups": [list(group) for group in codes.groups]}
    return EncodedSection(LowRank2.name, parameters, tuple(parts))


class LowRank2(Codec):
    """See the module's docstring."""

    name = "lowrank2"
    progressive = True

    @classmethod
    def decode(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> LowRankSection:
        """Read a section; with fewer parts than bands, the section of lower rank that they hold."""
        rank, groups = read_parameters(parameters, shape)
        ranges = list(bands(rank))[: len(parts)]
        if len(parts) > len(ranges):
            raise CorruptionError("A low-rank section has more parts than bands.")
        bands_held = [_read_band(part, stop - start, shape) for part, (start, stop) in zip(parts, ranges, strict=True)]
        empty = (*(np.zeros((0, length), np.int16) for length in shape), np.zeros((2, 0), np.uint8))
        sides = [np.concatenate([held[side] for held in (empty, *bands_held)]).T for side in range(2)]
        mantissas, shifts = np.concatenate([held[2] for held in (empty, *bands_held)], axis=1).astype(np.int64)
        if rank and parts and (int(shifts.max()) > SHIFT_LIMIT or int(mantissas.min()) < 1):
            raise CorruptionError("A low-rank multiplier is out of range.")
        held = ranges[-1][1] if ranges else 0
        return LowRankSection(shape, Codes(sides[0], sides[1], mantissas, shifts, leading_groups(groups, held)))

    @classmethod
    def leading_parts(cls, parameters: Parameters, parts: int, shape: tuple[int, int], rank: int) -> tuple[int, int]:
        """See :meth:`Codec.leading_parts`."""
        full, used = count_bands(bands(read_parameters(parameters, shape)[0]), rank)
        return min(full, parts), min(used, parts)


def _read_band(content: bytes, columns: int, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return P^T and Q^T (columns, length), and mantissas and shifts (2, columns) of one band."""
    width = content[0] if content else 0
    if width not in _WIDTHS or len(content) != 1 + columns * (2 + width * sum(shape)):
        raise CorruptionError("A low-rank band has a wrong length.")
    head = np.frombuffer(content, np.uint8, 2 * columns, 1).reshape(2, columns)
    start = 1 + 2 * columns
    sides = []
    for length in shape:
        sides.append(np.frombuffer(content, _WIDTHS[width], columns * length, start).reshape(columns, length))
        start += width * columns * length
    return sides[0], sides[1], head
