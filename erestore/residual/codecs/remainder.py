"""``remainder``: uniformly quantised values, ``code * step``, stored as runs of codes.

What is left of a matrix where rank-one terms stop paying, whole matrices whose spectrum is flat, biases and gains. ``step`` is
dyadic with a mantissa of at most 24 bits and codes have at most 29 bits, so every product is exact in float64.

Rows are cut into parts of about 2**20 codes (a part has whole rows, at least one): one byte, the bytes of a code (2 or 4),
then the codes in row-major order. A row is a run. A matrix's parts stand in the last band, a vector's in the first.

Parameters: ``step`` as ``[mantissa, exponent]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from erestore.arrays import Array
from erestore.errors import CorruptionError
from erestore.residual import dyadic
from erestore.residual.codecs.abc import Codec, EncodedPart, EncodedSection, Parameters, Section
from erestore.residual.codecs.vector import CODE_LIMIT, STEP_BITS
from erestore.residual.runs import RunGroup

PART = 1 << 20
"""Codes a part."""
LAST_BAND = 31
_WIDTHS: dict[int, np.dtype[Any]] = {2: np.dtype("<i2"), 4: np.dtype("<i4")}


def row_ranges(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the rows of every part."""
    rows, columns = shape
    height = _height(columns)
    for start in range(0, rows if columns else 0, height):
        yield start, min(rows, start + height)


def _height(columns: int) -> int:
    return max(1, PART // max(1, columns))


def band_of(shape: tuple[int, ...]) -> int:
    """Return the band that a matrix's parts, or a vector's, stand in."""
    return LAST_BAND if shape[0] > 1 else 0


def encode(codes: Iterable[Array], step: dyadic.Dyadic, shape: tuple[int, ...]) -> EncodedSection:
    """Write codes, part by part, as a section."""
    band = band_of(shape)
    parts = []
    for part in codes:
        width = 2 if part.dtype == np.int16 else 4
        content = bytes([width]) + part.astype(_WIDTHS[width]).tobytes()
        parts.append(EncodedPart(band, content, (RunGroup(1, 1, 1), RunGroup(width, part.shape[0], part.shape[1]))))
    return EncodedSection(Remainder.name, {"step": list(step)}, tuple(parts))


@dataclass(frozen=True)
class RemainderSection(Section):
    """Decoded codes of every part, or of none, and the float64 step."""

    shape: tuple[int, int]
    parts: tuple[Array, ...]
    step: float

    def rows(self, start: int, stop: int, base: Array) -> Array:
        """Evaluate rows ``start:stop``; see :meth:`Section.rows`."""
        tiles = [
            part[max(0, start - first) : stop - first]
            for part, (first, last) in zip(self.parts, row_ranges(self.shape), strict=False)
            if first < stop and start < last
        ]
        return _values(tiles, self.step, base)


class StreamedRemainder(Section):
    """The same, of which one part is decoded at a time.

    Parameters
    ----------
    shape : tuple of int
    parts : sequence of bytes
        Read one by one.
    step : float
    """

    def __init__(self, shape: tuple[int, int], parts: Sequence[bytes], step: float) -> None:
        self.shape, self._parts, self._step = shape, parts, step
        self._last: tuple[int, Array] = (-1, np.empty(0))

    def rows(self, start: int, stop: int, base: Array) -> Array:
        """Evaluate rows ``start:stop``; see :meth:`Section.rows`."""
        height = _height(self.shape[1])
        numbers = range(start // height, min(-(-stop // height), len(self._parts)))
        tiles = [self._codes(number)[max(0, start - number * height) : stop - number * height] for number in numbers]
        return _values(tiles, self._step, base)

    def _codes(self, number: int) -> Array:
        if self._last[0] != number:
            start = number * _height(self.shape[1])
            rows = min(self.shape[0] - start, _height(self.shape[1]))
            self._last = number, _read(self._parts[number], (rows, self.shape[1]))
        return self._last[1]


def _values(tiles: Sequence[Array], step: float, base: Array) -> Array:
    """Return the values of some rows of codes, one below the other; zeros where there are no codes."""
    codes = tiles[0] if len(tiles) == 1 else np.concatenate(tiles) if tiles else np.zeros(base.shape)
    values: Array = codes * np.float64(step)
    return values


class Remainder(Codec):
    """See the module's docstring."""

    name = "remainder"

    @classmethod
    def decode(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> RemainderSection:
        """Read a section; without parts, zeros: what a prefix of the object holds of it."""
        step = _step(parameters, parts, shape)
        ranges = zip(parts, row_ranges(shape), strict=False)
        codes = tuple(_read(part, (stop - start, shape[1])) for part, (start, stop) in ranges)
        return RemainderSection(shape, codes, step)

    @classmethod
    def open(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> StreamedRemainder:
        """Read a section part by part; see :meth:`Codec.open`."""
        return StreamedRemainder(shape, parts, _step(parameters, parts, shape))

    @classmethod
    def leading_parts(
        cls,
        parameters: Parameters,  # noqa: ARG003 - the shape decides
        parts: int,
        shape: tuple[int, int],
        rank: int,  # noqa: ARG003
    ) -> tuple[int, int]:
        """Leave out what is left of a matrix after all of its components; see :meth:`Codec.leading_parts`."""
        return (0, 0) if band_of(shape) == LAST_BAND else (parts, parts)


def _step(parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> float:
    """Return the step, having made sure that there are as many parts as the shape has, or none."""
    if set(parameters) != {"step"}:
        raise CorruptionError("A remainder's parameters are malformed.")
    step = dyadic.read(parameters["step"], STEP_BITS)
    if parts and len(parts) != (-(-shape[0] // _height(shape[1])) if shape[1] else 0):
        raise CorruptionError("A remainder has a wrong number of parts.")
    return step.value


def _read(part: bytes, shape: tuple[int, int]) -> Array:
    width = part[0] if part else 0
    if width not in _WIDTHS or len(part) != 1 + width * shape[0] * shape[1]:
        raise CorruptionError("A remainder's part has a wrong length.")
    codes = np.frombuffer(part, _WIDTHS[width], offset=1).reshape(shape)
    if codes.size and max(-int(codes.min()), int(codes.max())) > CODE_LIMIT:
        raise CorruptionError("A remainder's code is out of range.")
    return codes.copy()  # aligned
