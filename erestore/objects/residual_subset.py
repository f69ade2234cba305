"""A part of a residual as one of its own: some of its tensors, or some components of their factors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from erestore.arrays import Array
from erestore.objects.residual import Residual, StoredTensor
from erestore.objects.residual_writer import ResidualWriter
from erestore.residual import dyadic
from erestore.residual.codecs import factors, lowrank2, remainder
from erestore.residual.codecs.abc import EncodedPart, EncodedSection
from erestore.residual.codecs.lowrank import Codes, LowRankSection, cut_groups
from erestore.residual.codecs.registry import codec
from erestore.residual.codecs.remainder import RemainderSection
from erestore.residual.codecs.vector import STEP_BITS
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import PutResult

_MANTISSAS = 256
"""What multipliers stay below in the codec that is written."""


class Components(NamedTuple):
    """A range of components, from the strongest, which is 1; both ends count."""

    first: int
    last: int


def select(
    objects: ObjectStore, residual: Residual, wanted: Callable[[str], bool], components: Components | None = None
) -> PutResult | None:
    """Write a part of a residual.

    Parameters
    ----------
    objects : ObjectStore
    residual : Residual
    wanted : Callable
        Tells by key which tensors.
    components : Components, optional
        Take these components of factors alone, and nothing that has no factors. All of a tensor's sections otherwise.

    Returns
    -------
    PutResult or None
        None if there is nothing of that. Whole tensors keep their values bit for bit; so do components, but of adapters,
        which are scaled.
    """
    with ResidualWriter(objects, residual.base) as writer:
        for key in sorted(residual.tensors):
            tensor = residual.tensors[key]
            if not wanted(key):
                continue
            if components is None:
                writer.add(key, tensor.shape, tuple(_whole(residual, key, tensor)), tensor.errors)
            elif sections := tuple(_cut(residual, key, components)):
                writer.add(key, tensor.shape, sections, tensor.errors._replace(norm=_norm(sections, tensor)))
        return None if writer.is_empty else writer.finish()


def _whole(residual: Residual, key: str, tensor: StoredTensor) -> list[EncodedSection]:
    encoded = []
    for stored, decoded in zip(tensor.sections, residual.sections(key), strict=True):
        if isinstance(decoded, LowRankSection) and stored.codec == lowrank2.LowRank2.name:
            encoded.append(lowrank2.encode(decoded.codes))
        elif isinstance(decoded, RemainderSection):
            step = dyadic.read(stored.parameters["step"], STEP_BITS)
            encoded.append(remainder.encode(decoded.parts, step, tensor.matrix))
        else:
            kind = codec(stored.codec)
            parts = residual.contents(stored)
            bands = range(len(parts)) if kind.progressive else [0] * len(parts)
            sections = tuple(EncodedPart(band, part) for band, part in zip(bands, parts, strict=True))
            encoded.append(EncodedSection(stored.codec, stored.parameters, sections))
    return encoded


def _cut(residual: Residual, key: str, components: Components) -> list[EncodedSection]:
    """Return the components of each section that has factors; those of sections after the first count on."""
    encoded, before = [], 0
    for section in residual.sections(key):
        sides = section.factors()
        if sides is None:
            continue
        rank = sides[0].shape[1]
        start, stop = max(0, components.first - 1 - before), min(rank, components.last - before)
        before += rank
        if start >= stop:
            continue
        if isinstance(section, LowRankSection) and int(section.codes.mantissas.max()) < _MANTISSAS:
            encoded.append(lowrank2.encode(_codes(section.codes, start, stop)))
        else:
            left, right = (np.ascontiguousarray(side[:, start:stop]) for side in sides)
            encoded.append(factors.encode(_single(left), _single(right).T, 1.0))
    return encoded


def _codes(codes: Codes, start: int, stop: int) -> Codes:
    """Return a range of components, in groups that are proven anew."""
    exponents = [exponent for number, exponent in codes.groups for _ in range(number)]
    absolute = [int(shift) + exponent for shift, exponent in zip(codes.shifts, exponents, strict=True)][start:stop]
    left, right = codes.left[:, start:stop], codes.right[:, start:stop]
    mantissas = [int(mantissa) for mantissa in codes.mantissas[start:stop]]
    largest = [_largest(left[:, k]) * _largest(right[:, k]) for k in range(stop - start)]
    groups, shifts = cut_groups(mantissas, absolute, largest)
    return Codes(left, right, codes.mantissas[start:stop], np.array(shifts, np.int64), groups)


def _largest(column: Array) -> int:
    return max(-int(column.min()), int(column.max())) if column.size else 0


def _single(side: Array) -> Array:
    """Return factors in the widest dtype that is stored."""
    return side.astype(np.float32)


def _norm(sections: tuple[EncodedSection, ...], tensor: StoredTensor) -> float:
    """Return the squared norm of sections with factors."""
    decoded = [
        codec(section.codec).decode(section.parameters, [part.content for part in section.parts], tensor.matrix)
        for section in sections
    ]
    sides = [pair for section in decoded if (pair := section.factors()) is not None]
    left, right = (np.concatenate(side, axis=1) for side in zip(*sides, strict=True))
    return float(((left.T @ left) * (right.T @ right)).sum())
