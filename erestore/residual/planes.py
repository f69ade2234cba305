"""Byte planes: element bytes transposed, lowest byte of every element first, so that like bytes stand together."""

from __future__ import annotations

import torch


def to_planes(values: torch.Tensor) -> bytes:
    """Return the byte planes of a flat CPU tensor of any dtype, little-endian."""
    size = values.element_size()
    return (
        values.contiguous().view(torch.uint8).view(-1, size).T.contiguous().numpy().tobytes() if values.numel() else b""
    )


def from_planes(content: bytes, dtype: torch.dtype) -> torch.Tensor:
    """Undo :func:`to_planes`; the length of `content` must be a multiple of the element's size."""
    if not content:
        return torch.zeros(0, dtype=dtype)
    planes = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(dtype.itemsize, -1)
    return planes.T.contiguous().view(-1).view(dtype)
