"""``dense``: raw values of the residual in a floating dtype, where nothing shorter is wanted.

Values are stored little-endian in chunks of 2**18 elements, one part each in band 0, as byte planes (all lowest bytes
first), which compress better than interleaved bytes.

Parameters: ``dtype`` as safetensors names it (``F64``, ``F32``, ``F16``, ``BF16``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from erestore.arrays import Array, named_dtype, widen
from erestore.errors import CorruptionError
from erestore.residual.codecs.abc import Codec, EncodedPart, EncodedSection, Parameters, Section
from erestore.residual.planes import from_planes, to_planes

CHUNK = 1 << 18
"""Elements a part."""
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
DTYPES = {code: named_dtype(name) for code, name in _NAMES.items()}


def encode(values: Array) -> EncodedSection:
    """Write `values` (any shape) in their own dtype, one of :data:`DTYPES`."""
    code = next(code for code, dtype in DTYPES.items() if dtype == values.dtype)
    flat = values.reshape(-1)
    parts = tuple(EncodedPart(0, to_planes(flat[start : start + CHUNK])) for start in range(0, flat.size, CHUNK))
    return EncodedSection(Dense.name, {"dtype": code}, parts)


@dataclass(frozen=True)
class DenseSection(Section):
    """Values ``(m, n)`` in their own dtype."""

    shape: tuple[int, int]
    values: Array

    def rows(self, start: int, stop: int, base: Array) -> Array:  # noqa: ARG002
        """Evaluate rows ``start:stop``; see :meth:`Section.rows`."""
        return np.array(widen(self.values[start:stop]))


class Dense(Codec):
    """See the module's docstring."""

    name = "dense"

    @classmethod
    def decode(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> DenseSection:
        """Read a section."""
        dtype = DTYPES.get(str(parameters.get("dtype")))
        if dtype is None or set(parameters) != {"dtype"}:
            raise CorruptionError("A dense section's parameters are malformed.")
        total = shape[0] * shape[1]
        lengths = [min(CHUNK, total - start) for start in range(0, total, CHUNK)]
        if [len(part) for part in parts] != [length * dtype.itemsize for length in lengths]:
            raise CorruptionError("A dense section has the wrong size.")
        chunks = [from_planes(part, dtype) for part in parts]
        return DenseSection(shape, np.concatenate([np.zeros(0, dtype), *chunks]).reshape(shape))
