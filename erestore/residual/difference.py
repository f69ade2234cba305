"""Exact remainders as erestore first wrote them; only read now. :mod:`erestore.residual.classed` is what is written.

``(v - p) + p == v`` fails in every float dtype, so the difference is taken between integers: the bits of a float, with
negative numbers mapped below positive ones, increase with its value. Differences wrap around, are zigzag-coded (0, -1, 1, -2,
...) and stored as byte planes.
"""

from __future__ import annotations

import torch

from erestore.residual.planes import from_planes

CHUNK = 1 << 18
"""Elements a part."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _ordered(values: torch.Tensor) -> torch.Tensor:
    """Map bits to signed integers that increase with the value; its own inverse on integers."""
    bits = values.contiguous().view(_INTEGERS[values.element_size()])
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def decode(part: bytes, predicted: torch.Tensor) -> torch.Tensor:
    """Return the values of one part.

    Parameters
    ----------
    part : bytes
        ``len(predicted) * itemsize`` bytes, which the caller has checked.
    predicted : torch.Tensor
        Flat, contiguous, the same elements as predicted when encoding.
    """
    integer = _INTEGERS[predicted.element_size()]
    coded = from_planes(part, integer)
    # The shift of a zigzag code is logical; torch shifts signed integers arithmetically, so the sign is masked off.
    difference = ((coded >> 1) & torch.iinfo(integer).max) ^ -(coded & 1)
    total = _ordered(predicted) + difference
    return torch.where(total < 0, total ^ torch.iinfo(integer).max, total).view(predicted.dtype)
