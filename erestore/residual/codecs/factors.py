"""``factors``: a LoRA adapter as it is, ``scaling * up @ down``.

Evaluated in float64 component by component in stored order: products of factors of at most 32 bits are exact in float64, so
only the additions round, in an order that is fixed.

``up`` is ``(m, r)`` and ``down`` ``(r, n)``; with ``transpose`` the value is ``(up @ down)^T`` (Conv1D and embeddings), and
``up`` is ``(n, r)``, ``down`` ``(r, m)``. Two parts in band 0: the bytes of up and of down, little-endian, as byte planes.

Parameters: ``rank``, ``up`` and ``down`` (dtypes), ``scaling`` (float64 text, shortest), ``transpose``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from erestore.arrays import Array, widen
from erestore.errors import CorruptionError
from erestore.residual.codecs.abc import ALL_ROWS, Codec, EncodedPart, EncodedSection, Parameters, Section
from erestore.residual.codecs.dense import DTYPES
from erestore.residual.planes import from_planes, to_planes

_RANKS = 1 << 31
STORED = {dtype: code for code, dtype in DTYPES.items() if code != "F64"}
"""Dtypes that factors may have: their products are exact in float64."""


def encode(up: Array, down: Array, scaling: float, *, transpose: bool = False) -> EncodedSection:
    """Write an adapter's two factors in their own dtypes (F32, F16 or BF16)."""
    parameters = {
        "rank": int(up.shape[1]),
        "up": STORED[up.dtype],
        "down": STORED[down.dtype],
        "scaling": repr(float(scaling)),
        "transpose": transpose,
    }
    parts = [EncodedPart(0, to_planes(side)) for side in (up, down)]
    return EncodedSection(Factors.name, parameters, tuple(parts))


@dataclass(frozen=True)
class FactorsSection(Section):
    """Factors as rows and columns of the value: ``value = scaling * left @ right`` with ``left (m, r)``, ``right (r, n)``."""

    shape: tuple[int, int]
    left: Array
    right: Array
    scaling: float

    def rows(self, start: int, stop: int, base: Array) -> Array:
        """Evaluate rows ``start:stop``; see :meth:`Section.rows`."""
        left, right = widen(self.left[start:stop]), widen(self.right)
        total = np.zeros_like(base)
        for component in range(left.shape[1]):
            product = left[:, component : component + 1] * right[component]
            total += product
        total *= self.scaling
        return total

    @property
    def components(self) -> int:
        """The adapter's rank."""
        return int(self.left.shape[1])

    def factors(self, rows: slice = ALL_ROWS) -> tuple[Array, Array]:
        """Return float64 factors; see :meth:`Section.factors`."""
        return widen(self.left[rows]) * self.scaling, widen(self.right).T


class Factors(Codec):
    """See the module's docstring."""

    name = "factors"

    @classmethod
    def decode(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> FactorsSection:
        """Read a section."""
        expected = {"rank", "up", "down", "scaling", "transpose"}
        if set(parameters) != expected or len(parts) != 2 or type(parameters["transpose"]) is not bool:
            raise CorruptionError("A factors section is malformed.")
        rank, transpose = parameters["rank"], parameters["transpose"]
        dtypes = [DTYPES.get(str(parameters[side])) for side in ("up", "down")]
        try:
            scaling = float(parameters["scaling"])
        except (TypeError, ValueError, OverflowError) as error:
            raise CorruptionError("A factors section's scaling is not a number.") from error
        if type(rank) is not int or not 0 <= rank < _RANKS or None in dtypes or not math.isfinite(scaling):
            raise CorruptionError("A factors section's parameters are out of range.")
        m, n = shape[::-1] if transpose else shape
        sides = []
        for part, dtype, size in zip(parts, dtypes, ((m, rank), (rank, n)), strict=True):
            if dtype is None or len(part) != size[0] * size[1] * dtype.itemsize:
                raise CorruptionError("A factors section has the wrong size.")
            sides.append(from_planes(part, dtype).reshape(size))
        up, down = sides
        left, right = (down.T, up.T) if transpose else (up, down)
        return FactorsSection(shape, left, right, scaling)
