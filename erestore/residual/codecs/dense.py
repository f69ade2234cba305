"""``dense``: raw values of the residual in a floating dtype, where nothing shorter is wanted.

Values are stored little-endian in chunks of 2**18 elements, one part each in band 0, as byte planes (all lowest bytes
first), which compress better than interleaved bytes.

Parameters: ``dtype`` as safetensors names it (``F64``, ``F32``, ``F16``, ``BF16``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from erestore.errors import CorruptionError
from erestore.residual.codecs.abc import Codec, EncodedPart, EncodedSection, Parameters, Section
from erestore.residual.planes import from_planes, to_planes

CHUNK = 1 << 18
"""Elements a part."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def encode(values: torch.Tensor) -> EncodedSection:
    """Write `values` (any shape) in their own dtype, one of :data:`DTYPES`."""
    code = next(code for code, dtype in DTYPES.items() if dtype == values.dtype)
    chunks = torch.split(values.detach().cpu().contiguous().reshape(-1), CHUNK) if values.numel() else ()
    parts = tuple(EncodedPart(0, to_planes(chunk)) for chunk in chunks)
    return EncodedSection(Dense.name, {"dtype": code}, parts)


@dataclass(frozen=True)
class DenseSection(Section):
    """Values ``(m, n)`` in their own dtype."""

    shape: tuple[int, int]
    values: torch.Tensor

    def rows(self, start: int, stop: int, base: torch.Tensor) -> torch.Tensor:
        """Evaluate rows ``start:stop``; see :meth:`Section.rows`."""
        return self.values[start:stop].to(base.device, torch.float64, copy=True)


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
        return DenseSection(shape, (torch.cat(chunks) if chunks else torch.zeros(0, dtype=dtype)).view(shape))
