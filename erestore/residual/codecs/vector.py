"""``vector``: uniformly quantised values, ``code * step``.

Biases, normalisation gains, and matrices whose spectrum is so flat that factors cost more than the values themselves.
``step`` is dyadic with a mantissa of at most 24 bits and codes have at most 29 bits, so every product is exact in float64.

Codes are stored in chunks of 2**20 elements, one part each in band 0: a byte that gives the width, then the packed codes.

Parameters: ``step`` as ``[mantissa, exponent]``.

Read for ever and no longer written: :mod:`erestore.residual.codecs.remainder` has the same codes in fewer bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from erestore.arrays import Array
from erestore.errors import CorruptionError
from erestore.residual import code_packing, dyadic
from erestore.residual.codecs.abc import Codec, Parameters, Section

CHUNK = 1 << 20
"""Codes a part."""
STEP_BITS = 24
CODE_LIMIT = (1 << 29) - 1


@dataclass(frozen=True)
class VectorSection(Section):
    """Decoded codes ``(m, n)`` and the float64 step."""

    shape: tuple[int, int]
    codes: Array
    step: float

    def rows(self, start: int, stop: int, base: Array) -> Array:  # noqa: ARG002
        """Evaluate rows ``start:stop``; see :meth:`Section.rows`."""
        values: Array = self.codes[start:stop] * np.float64(self.step)
        return values


class Vector(Codec):
    """See the module's docstring."""

    name = "vector"

    @classmethod
    def decode(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> VectorSection:
        """Read a section."""
        if set(parameters) != {"step"}:
            raise CorruptionError("A vector section's parameters are malformed.")
        step = dyadic.read(parameters["step"], STEP_BITS)
        total = shape[0] * shape[1]
        lengths = [min(CHUNK, total - start) for start in range(0, total, CHUNK)]
        if len(parts) != len(lengths):
            raise CorruptionError("A vector section has a wrong number of parts.")
        if any(not part or part[0] >= len(code_packing.WIDTHS) for part in parts):
            raise CorruptionError("A vector section has an unknown width.")
        widths = [code_packing.WIDTHS[part[0]] for part in parts]
        codes = np.empty(total, dtype=code_packing.integer_type(max(widths, default=0)))
        start = 0
        for part, length, width in zip(parts, lengths, widths, strict=True):
            codes[start : start + length] = code_packing.unpack(memoryview(part)[1:], 1, length, width)[0]
            start += length
        if total and max(-int(codes.min()), int(codes.max())) > CODE_LIMIT:
            raise CorruptionError("A vector section's code is out of range.")
        return VectorSection(shape, codes.reshape(shape), step.value)
