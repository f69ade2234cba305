"""Exact remainders: the integer difference of an order-preserving map of the bits, as byte planes.

``(v - p) + p == v`` fails in every float dtype, so the difference is taken between integers: the bits of a float, with
negative numbers mapped below positive ones, increase with its value. Differences wrap around, are zigzag-coded (0, -1, 1, -2,
...) and stored as byte planes; a good prediction leaves the high planes empty.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from erestore.residual.planes import from_planes, to_planes

CHUNK = 1 << 18
"""Elements a part."""
_JUDGED = 8
"""Chunks that a predictor is judged by."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _ordered(values: torch.Tensor) -> torch.Tensor:
    """Map bits to signed integers that increase with the value; its own inverse on integers."""
    bits = values.contiguous().view(_INTEGERS[values.element_size()])
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def zigzag(values: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Return the zigzag-coded difference of two flat tensors of one floating dtype, as integers of the same width."""
    difference = _ordered(values) - _ordered(predicted)
    width = 8 * values.element_size()
    return (difference << 1) ^ (difference >> (width - 1))


def cost(values: torch.Tensor, predicted: torch.Tensor) -> float:
    """Estimate the bits that the difference takes, to compare predictors: from a few chunks, spread evenly."""
    pairs = list(_chunks(values, predicted))
    total = 0.0
    for value, guess in pairs[:: max(1, len(pairs) // _JUDGED)]:
        total += float(torch.log2(zigzag(value, guess).to(torch.float32).abs() + 1).sum(dtype=torch.float64))
    return total


def encode(values: torch.Tensor, predicted: torch.Tensor) -> Iterator[bytes]:
    """Encode `values` given `predicted` (same dtype and shape): yield one part for every :data:`CHUNK` elements."""
    for value, guess in _chunks(values, predicted):
        yield to_planes(zigzag(value, guess))


def _chunks(values: torch.Tensor, predicted: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(torch.split(values.reshape(-1), CHUNK), torch.split(predicted.reshape(-1), CHUNK), strict=True)


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
