"""Exact remainders: integer differences of float bits, entropy-coded in classes that the prediction decides.

Value and prediction have the prediction's sign taken from them, so that the prediction is not negative; an order-preserving
map makes integers of both (see :mod:`erestore.residual.difference`), and their difference is in units of the last place. It
is the wider, the smaller the exponent of the prediction, so that elements are coded apart by ranges of that exponent, each
range by :mod:`erestore.residual.pco`. Three things are taken out first where that pays, part by part:

* low bits that are zero in every value (float32 numbers that were trained in bfloat16, say);
* *drift*, a difference for each of some ranges of the prediction's significand. Decoupled weight decay takes a fixed number of
  units of the last place at every step, which depends on the significand alone: parameters without a gradient become
  predictable to the bit;
* rows that hardly changed, such as those of tokens that no example had: they are a class of their own.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from erestore.arrays import Array, fraction_bits
from erestore.errors import CorruptionError
from erestore.residual import pco

CHUNK = 1 << 18
"""Elements a part."""
LARGEST_DRIFT = 8
"""Largest number of significand bits that drift may depend on."""
HEAD = struct.Struct("<BBBB")


class ElementSpan(NamedTuple):
    """Where the elements of a part are in their tensor, seen as a matrix.

    Attributes
    ----------
    start : int
        Index of the first, in row-major order.
    columns : int
    """

    start: int
    columns: int

    def rows(self, count: int) -> int:
        """Return how many rows `count` elements touch."""
        return (self.start + count - 1) // self.columns - self.start // self.columns + 1

    def row_starts(self, count: int) -> Array:
        """Return the index, within the part, of the first element of every row."""
        starts = np.arange(self.rows(count)) * self.columns - self.start % self.columns
        return np.maximum(starts, 0)

    def spread(self, flags: Array, count: int) -> Array:
        """Return each element's flag, given those of the rows."""
        return np.repeat(flags, np.diff(self.row_starts(count), append=count))


@dataclass(frozen=True)
class Width:
    """Sizes of the numbers of a dtype: all bits, and those of the significand."""

    bits: int
    fraction: int

    @property
    def integer(self) -> np.dtype[Any]:
        """The integers that differences are computed in; single bytes are widened, as pcodec has none."""
        return np.dtype(f"<i{max(2, self.bits // 8)}")

    @property
    def largest(self) -> int:
        """The largest magnitude of a float's bits, sign excluded."""
        return (1 << (self.bits - 1)) - 1

    def wrapped(self, values: Array) -> Array:
        """Wrap integers to :attr:`bits`."""
        return values.astype(np.int8).astype(self.integer) if self.bits == 8 else values


def bits_of(values: Array) -> tuple[Array, Width]:
    """Return a flat array's bits as signed integers."""
    width = Width(8 * values.itemsize, fraction_bits(values.dtype))
    return np.ascontiguousarray(values).view(f"i{values.itemsize}").astype(width.integer, copy=False), width


@dataclass(frozen=True)
class Guess:
    """What is known of a part before any of it is read: the prediction without its sign, and the sign.

    Attributes
    ----------
    width : Width
    shift : int
        Low bits that are zero in every value.
    magnitude : ndarray
        Shifted, rounded to nearest.
    sign : ndarray
        The sign bit, in place, or 0.
    """

    width: Width
    shift: int
    magnitude: Array
    sign: Array

    @classmethod
    def of(cls, predicted: Array, shift: int) -> Guess:
        """Take a prediction apart."""
        bits, width = bits_of(predicted)
        magnitude = bits & width.largest
        if shift:
            # In two steps: the largest magnitudes must not leave the integers' range.
            magnitude = (magnitude >> shift) + (magnitude >> (shift - 1) & 1)
        return cls(width, shift, magnitude, bits & ~width.largest)

    @property
    def fraction(self) -> int:
        """Bits of the significand that are left."""
        return self.width.fraction - self.shift

    def exponent(self) -> Array:
        """Return the exponents, as they are stored."""
        exponents: Array = self.magnitude >> self.fraction
        return exponents

    def significand(self, bits: int) -> Array:
        """Return the highest `bits` bits of the significand."""
        significands: Array = (self.magnitude >> (self.fraction - bits)) & ((1 << bits) - 1)
        return significands

    def difference(self, values: Array) -> Array:
        """Return value minus prediction, in order-preserving integers."""
        ordered = self._ordered((bits_of(values)[0] ^ self.sign) >> self.shift)
        return self.width.wrapped(ordered - self.magnitude)

    def value(self, difference: Array) -> Array:
        """Undo :meth:`difference`: return the values' bits."""
        bits = self._ordered(self.width.wrapped(difference + self.magnitude)) << self.shift
        return self.width.wrapped(bits) ^ self.sign

    def _ordered(self, bits: Array) -> Array:
        """Map bits to integers that increase with the value; its own inverse."""
        negative = bits >> (8 * bits.itemsize - 1)
        ordered: Array = bits ^ (negative & (self.width.largest >> self.shift))
        return ordered


def decode(part: bytes, predicted: Array, span: ElementSpan) -> Array:
    """Return the values of one part.

    Parameters
    ----------
    part : bytes
        As long as the values at most.
    predicted : ndarray
        Flat, not empty, the same elements as predicted when encoding.
    span : ElementSpan

    Raises
    ------
    CorruptionError
        If `part` is not what an encoder made of that many elements.
    """
    count = len(predicted)
    if len(part) == predicted.nbytes:
        return np.frombuffer(part, dtype=predicted.dtype)
    reader = _Reader(part)
    shift, drift_bits, has_flags, ranges = HEAD.unpack(reader.take(HEAD.size))
    fraction = fraction_bits(predicted.dtype)
    if shift > fraction or drift_bits > min(LARGEST_DRIFT, fraction - shift) or has_flags > 1 or not ranges:
        raise CorruptionError("The head of an exact remainder's part is out of range.")
    guess = Guess.of(predicted, shift)
    integer = guess.width.integer
    drift = reader.array(1 << drift_bits, integer) if drift_bits else None
    flags = None
    if has_flags:
        rows = span.rows(count)
        flags = np.unpackbits(reader.array(-(-rows // 8), np.dtype(np.uint8)), count=rows, bitorder="little")
    thresholds = reader.array(ranges - 1, np.dtype("<u2"))
    if np.any(thresholds[1:] <= thresholds[:-1]):
        raise CorruptionError("The classes of an exact remainder's part are out of order.")
    classes = classes_of(guess, flags, thresholds, span)
    lengths = reader.array(ranges + has_flags, np.dtype("<u4")).tolist()
    difference = np.empty(count, dtype=integer)
    for number, length in enumerate(lengths):
        chunk = reader.take(length)
        members = np.flatnonzero(classes == number) if len(lengths) > 1 else slice(None)
        size = count if isinstance(members, slice) else len(members)
        if size:
            difference[members] = pco.decompress(chunk, size, integer)
        elif length:
            raise CorruptionError("An exact remainder has numbers for a class without elements.")
    reader.finish()
    if drift is not None:
        difference += drift[guess.significand(drift_bits)]
    return guess.value(difference).astype(f"i{predicted.itemsize}", copy=False).view(predicted.dtype)


def classes_of(guess: Guess, flags: Array | None, thresholds: Array, span: ElementSpan) -> Array:
    """Return each element's class: how many thresholds its exponent reaches; one more than all for rows that are flagged."""
    table = np.searchsorted(thresholds, np.arange(1 << (guess.width.bits - guess.width.fraction)), side="right")
    classes = table.astype(np.uint8)[guess.exponent()]
    if flags is not None:
        classes[span.spread(flags, len(classes)).astype(bool)] = len(thresholds) + 1
    return classes


class _Reader:
    """Takes a part's fields one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def take(self, length: int) -> bytes:
        start, self._position = self._position, self._position + length
        if self._position > len(self._content):
            raise CorruptionError("A part of an exact remainder is cut off.")
        return self._content[start : self._position]

    def array(self, count: int, dtype: np.dtype[Any]) -> Array:
        return np.frombuffer(self.take(count * dtype.itemsize), dtype=dtype)

    def finish(self) -> None:
        if self._position != len(self._content):
            raise CorruptionError("A part of an exact remainder is longer than what it holds.")
