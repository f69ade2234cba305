"""The encoder of exact remainders that erestore first had, codec ``difference``: what it wrote must be read for ever."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from erestore.residual import difference
from erestore.residual.planes import to_planes

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def ordered(values: torch.Tensor) -> torch.Tensor:
    bits = values.contiguous().view(INTEGERS[values.element_size()])
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def zigzag(values: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    found = ordered(values) - ordered(predicted)
    return (found << 1) ^ (found >> (8 * values.element_size() - 1))


def encode(values: torch.Tensor, predicted: torch.Tensor) -> Iterator[bytes]:
    """Yield one part for every ``CHUNK`` elements."""
    pairs = zip(
        torch.split(values.reshape(-1), difference.CHUNK),
        torch.split(predicted.reshape(-1), difference.CHUNK),
        strict=True,
    )
    for value, guess in pairs:
        yield to_planes(zigzag(value, guess))
