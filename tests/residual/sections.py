"""Sections of every kind, made at random, with the dense matrix that each stands for."""

from __future__ import annotations

import numpy as np

from erestore.residual import dyadic
from erestore.residual.codecs import dense, factors, gamma, lowrank2, remainder
from erestore.residual.codecs.abc import EncodedSection, Section
from erestore.residual.codecs.lowrank import Codes, cut_groups, largest_codes
from erestore.residual.codecs.registry import codec

KINDS = ("lowrank2", "factors", "remainder", "dense", "gamma")


def section(kind: str, shape: tuple[int, int], rank: int, random: np.random.Generator) -> Section:
    """Encode a random section and decode it again, as a reader does."""
    encoded = _encode(kind, shape, rank, random)
    return codec(encoded.codec).decode(encoded.parameters, [part.content for part in encoded.parts], shape)


def _encode(kind: str, shape: tuple[int, int], rank: int, random: np.random.Generator) -> EncodedSection:
    rows, columns = shape
    if kind == "lowrank2":
        rank = min(rank, *shape)
        left, right = (random.integers(-90, 91, (size, rank)).astype(np.int16) for size in shape)
        products = (largest_codes(left) * largest_codes(right)).tolist()
        mantissas = [1 + 2 * place for place in range(rank)]
        groups, shifts = cut_groups(mantissas, [-12] * rank, products)
        return lowrank2.encode(Codes(left, right, np.array(mantissas, np.int64), np.array(shifts, np.int64), groups))
    if kind == "factors":
        up, down = random.standard_normal((rows, rank)), random.standard_normal((rank, columns))
        return factors.encode(up.astype(np.float32), down.astype(np.float16), 0.75)
    if kind == "remainder":
        codes = random.integers(-400, 401, shape).astype(np.int16)
        parts = [codes[start:stop] for start, stop in remainder.row_ranges(shape)]
        return remainder.encode(parts, dyadic.Dyadic(3, -9), shape)
    if kind == "gamma":
        return gamma.encode(dyadic.Dyadic(-5, -8))
    return dense.encode(random.standard_normal(shape).astype(np.float32))


def value(sections: list[Section], rows: int, base: np.ndarray) -> np.ndarray:
    """Evaluate sections densely, with zeros below what they cover."""
    found = np.zeros((rows, sections[0].shape[1]))
    for each in sections:
        found[: each.shape[0]] += each.rows(0, each.shape[0], base[: each.shape[0]])
    return found
