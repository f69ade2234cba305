"""Byte planes: element bytes transposed, lowest byte of every element first, so that like bytes stand together."""

from __future__ import annotations

from typing import Any

import numpy as np

from erestore.arrays import Array, raw_bytes


def to_planes(values: Array) -> bytes:
    """Return the byte planes of an array of any data type, little-endian."""
    return np.frombuffer(raw_bytes(values), np.uint8).reshape(-1, values.itemsize).T.tobytes()


def from_planes(content: bytes, dtype: np.dtype[Any]) -> Array:
    """Undo :func:`to_planes`: flat; the length of `content` must be a multiple of the element's size."""
    planes = np.frombuffer(content, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype)
