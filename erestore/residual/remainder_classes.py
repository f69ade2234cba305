"""How an encoder divides an exact remainder into classes; what readers need is :mod:`erestore.residual.exact_remainder`.

Choices are made on estimates of coded bytes: differences counted by sign and half octave, whose entropy, with the bits that
are left within a half octave, is within a few per cent of what the entropy coder takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from erestore.arrays import Array, fraction_bits
from erestore.residual import pco
from erestore.residual.exact_remainder import CHUNK, HEAD, ElementSpan, Guess, bits_of, classes_of

_DRIFT_BITS = (4, 6)
_SAMPLE = 1 << 15
"""Elements that drift is estimated from."""
_TABLE = 8.0 * 40
"""Bits of a class' own table and length."""
_JUDGED = 8
"""Parts that a predictor is judged by."""
_HALF_OCTAVES = 1 << 10
_LEAST_COLUMNS = 8
"""Rows shorter than this are not flagged."""
_APART = 2.0
"""Bits by which rows that are worth flagging differ from others on the mean."""


@dataclass(frozen=True)
class _Division:
    """One way to code a part.

    Attributes
    ----------
    guess : Guess
    difference : ndarray
        Less the drift.
    drift : ndarray or None
    flags : ndarray or None
        Boolean, by row.
    thresholds : ndarray
    bits : float
        Estimated size.
    """

    guess: Guess
    difference: Array
    drift: Array | None
    flags: Array | None
    thresholds: Array
    bits: float


def encode(values: Array, predicted: Array, columns: int) -> Iterator[bytes]:
    """Encode an array given its prediction (same dtype and shape) and its columns: yield a part for every :data:`CHUNK`."""
    for value, guess, span in _chunks(values, predicted, columns):
        part = _encode(_divide(value, guess, span), span)
        raw = value.tobytes()
        yield part if len(part) < len(raw) else raw


def cost(values: Array, predicted: Array, columns: int) -> float:
    """Estimate the bits that :func:`encode` takes, to compare predictors: from a few parts, spread evenly."""
    chunks = list(_chunks(values, predicted, columns))
    judged = chunks[:: max(1, len(chunks) // _JUDGED)]
    elements = sum(len(value) for value, _, _ in judged)
    return sum(_divide(*chunk).bits for chunk in judged) * values.size / max(1, elements)


def _chunks(values: Array, predicted: Array, columns: int) -> Iterator[tuple[Array, Array, ElementSpan]]:
    """Yield the elements of every part, flat, and their place."""
    flat, guesses = values.reshape(-1), predicted.reshape(-1)
    for start in range(0, len(flat), CHUNK):
        yield flat[start : start + CHUNK], guesses[start : start + CHUNK], ElementSpan(start, columns)


def _divide(values: Array, predicted: Array, span: ElementSpan) -> _Division:
    """Choose what is taken out of a part, and its classes."""
    guess = Guess.of(predicted, _common_zeros(values))
    difference = guess.difference(values)
    flags = _still_rows(difference, span) if span.columns >= _LEAST_COLUMNS else None
    if flags is None:
        return _with_drift(guess, difference, None, span)
    return min(
        (_with_drift(guess, difference, choice, span) for choice in (None, flags)), key=lambda division: division.bits
    )


def _common_zeros(values: Array) -> int:
    """Return how many low bits are zero in all values, of the significand's at most."""
    union = int(np.bitwise_or.reduce(bits_of(values)[0]))
    most = fraction_bits(values.dtype)
    return min(most, (union & -union).bit_length() - 1) if union else most


def _still_rows(difference: Array, span: ElementSpan) -> Array | None:
    """Return flags of the rows that changed by much less than others, or None: the best cut of the rows' mean logarithms."""
    starts = span.row_starts(len(difference))
    if len(starts) < 2:
        return None
    sizes = np.diff(starts, append=len(difference))
    logarithms = np.log2(np.abs(difference.astype(np.float32)) + 1)
    means = np.add.reduceat(logarithms, starts) / sizes
    order = np.argsort(means, kind="stable")
    below = np.cumsum(means[order])[:-1]
    number = np.arange(1, len(means))
    total = means.sum()
    between = (below / number - (total - below) / (len(means) - number)) ** 2 * number * (len(means) - number)
    cut = int(np.argmax(between)) + 1
    flags = np.zeros(len(means), dtype=bool)
    flags[order[:cut]] = True
    return flags if means[flags].mean() + _APART < means[~flags].mean() else None


def _with_drift(guess: Guess, difference: Array, flags: Array | None, span: ElementSpan) -> _Division:
    """Take out the drift of the flagged rows, or else of all, if that pays; choose the classes."""
    still = None if flags is None else span.spread(flags, len(difference))
    drift = _drift(guess, difference, still)
    if drift is not None:
        difference = guess.width.wrapped(difference - drift[guess.significand(len(drift).bit_length() - 1)])
    codes = _codes(difference)
    bits = 0.0 if drift is None else 8.0 * drift.nbytes
    exponent = guess.exponent()
    if still is not None:
        bits += span.rows(len(difference)) + float(_histogram_bits(np.bincount(codes[still], minlength=_HALF_OCTAVES)))
        codes, exponent = codes[~still], exponent[~still]
    thresholds, ranges_bits = _ranges(exponent, codes)
    return _Division(guess, difference, drift, flags, thresholds, bits + ranges_bits)


def _drift(guess: Guess, difference: Array, still: Array | None) -> Array | None:
    """Return the median difference by leading bits of the significand, if it is worth storing."""
    members = np.flatnonzero(still) if still is not None else np.arange(len(difference))
    sample = members[:: max(1, len(members) // _SAMPLE)]
    sampled = difference[sample]
    scale = len(members) / max(1, len(sample))
    best, drift_chosen = scale * _logarithms(sampled), None
    for bits in _DRIFT_BITS:
        if bits > guess.fraction:
            continue
        significand = guess.significand(bits)[sample]
        order = np.argsort(significand, kind="stable")
        groups = np.split(sampled[order], np.searchsorted(significand[order], np.arange(1, 1 << bits)))
        middles = [np.partition(group, len(group) // 2)[len(group) // 2] if len(group) else 0 for group in groups]
        drift = np.array(middles, dtype=sampled.dtype)
        bits_taken = scale * _logarithms(guess.width.wrapped(sampled - drift[significand])) + 8.0 * drift.nbytes
        if bits_taken < best:
            best, drift_chosen = bits_taken, drift
    return drift_chosen


def _logarithms(difference: Array) -> float:
    return float(np.log2(np.abs(difference.astype(np.float32)) + 1).sum(dtype=np.float64))


def _codes(difference: Array) -> Array:
    """Return the sign and half octave of every difference: the leading bits of a float32."""
    return (difference.astype(np.float32).view(np.uint32) >> 22).astype(np.int32)


_OCTAVES = (np.arange(_HALF_OCTAVES) >> 1) & 0xFF
_EXTRA = np.maximum(0, _OCTAVES - 128).astype(np.float64)
"""Bits that tell the integers of one half octave apart."""


def _histogram_bits(counts: Array) -> Array:
    """Return the estimated bits of classes, given their numbers of differences by code (last axis)."""
    numbers = counts.astype(np.float64)
    total = numbers.sum(axis=-1)
    logarithms = np.log2(np.maximum(numbers, 1))
    bits: Array = (
        total * np.log2(np.maximum(total, 1)) - (numbers * logarithms).sum(axis=-1) + numbers @ _EXTRA + _TABLE
    )
    return bits


_RANGES = 250
"""Most ranges of exponents in a part: their number is one byte, and rows may add a class."""


def _ranges(exponent: Array, codes: Array) -> tuple[Array, float]:
    """Return thresholds between ranges of exponents, and estimated bits: neighbours are merged while that saves bytes."""
    if not len(codes):
        return np.zeros(0, dtype=np.uint16), 0.0
    lowest = int(exponent.min())
    counts = np.bincount((exponent.astype(np.int64) - lowest) * _HALF_OCTAVES + codes)
    counts = np.pad(counts, (0, -len(counts) % _HALF_OCTAVES)).reshape(-1, _HALF_OCTAVES)
    present = np.flatnonzero(counts.any(axis=1))
    classes, firsts = list(counts[present]), (present + lowest).tolist()
    single = [float(_histogram_bits(histogram)) for histogram in classes]
    while len(classes) > 1:
        merged = _histogram_bits(np.stack([a + b for a, b in pairwise(classes)]))
        saved = np.array(single[:-1]) + np.array(single[1:]) - merged
        best = int(np.argmax(saved))
        if saved[best] <= 0 and len(classes) <= _RANGES:
            break
        classes[best : best + 2] = [classes[best] + classes[best + 1]]
        single[best : best + 2] = [float(merged[best])]
        del firsts[best + 1]
    return np.array(firsts[1:], dtype=np.uint16), sum(single)


def _encode(division: _Division, span: ElementSpan) -> bytes:
    """Write a part down."""
    drift, flags, thresholds = division.drift, division.flags, division.thresholds
    drift_bits = 0 if drift is None else len(drift).bit_length() - 1
    classes = classes_of(division.guess, flags, thresholds, span)
    ranges = len(thresholds) + 1
    members = [division.difference[classes == number] for number in range(ranges + (flags is not None))]
    chunks = [pco.compress(member) if len(member) else b"" for member in members]
    return b"".join(
        (
            HEAD.pack(division.guess.shift, drift_bits, flags is not None, ranges),
            b"" if drift is None else drift.tobytes(),
            b"" if flags is None else np.packbits(flags, bitorder="little").tobytes(),
            thresholds.astype("<u2").tobytes(),
            np.array([len(chunk) for chunk in chunks], dtype="<u4").tobytes(),
            *chunks,
        )
    )
