"""Bytes to signed integer codes, at 0, 2, 4, 8, 16 or 32 bits a code.

Codes are stored offset by half the range, so that small magnitudes of either sign share their high bits. Widths below a
byte divide it, so that a byte holds whole codes and zstandard's entropy stage sees joint statistics; wider codes are split
into byte planes. Each column is padded to whole bytes. Only these widths exist; the container records the width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from erestore.arrays import Array
from erestore.errors import CorruptionError

WIDTHS = (0, 2, 4, 8, 16, 32)
"""Bits a code that can be stored; 0 for columns of zeros."""
_CODES_AT_ONCE = 1 << 20


def packed_size(length: int, width: int) -> int:
    """Return the bytes that one column of `length` codes takes."""
    return (length * width + 7) // 8


def unpack(content: bytes | memoryview, columns: int, length: int, width: int) -> Array:
    """Read the codes of columns.

    Parameters
    ----------
    content : bytes or memoryview
        ``columns * packed_size(length, width)`` bytes.
    columns, length : int
    width : int
        One of :data:`WIDTHS`.

    Returns
    -------
    ndarray
        Int8, int16 or int32 ``(columns, length)``.

    Raises
    ------
    CorruptionError
        If the number of bytes is not what shape and width ask for.
    """
    if width not in WIDTHS or len(content) != columns * packed_size(length, width):
        raise CorruptionError(f"Packed codes of {len(content)} bytes do not hold {columns} x {length} codes.")
    if width == 0 or columns * length == 0:
        return np.zeros((columns, length), dtype=np.int8)
    at_once = max(1, _CODES_AT_ONCE // length)
    size = packed_size(length, width)
    codes = np.empty((columns, length), dtype=integer_type(width))
    view = memoryview(content)
    for start in range(0, columns, at_once):
        stop = min(columns, start + at_once)
        codes[start:stop] = _unpack(view[start * size : stop * size], stop - start, length, width)
    return codes


def _unpack(content: memoryview, columns: int, length: int, width: int) -> Array:
    stored = np.frombuffer(content, dtype=np.uint8)
    if width < 8:
        return _UNPACK[width][stored].reshape(columns, -1)[:, :length]
    if width == 8:
        # Offset binary and two's complement differ in the highest bit only.
        return (stored ^ np.uint8(0x80)).view(np.int8).reshape(columns, length)
    planes = stored.reshape(columns, width // 8, length)
    value = planes[:, 0].astype(np.int64)
    for index in range(1, width // 8):
        value += planes[:, index].astype(np.int64) << (8 * index)
    value -= 1 << (width - 1)
    return value


def integer_type(width: int) -> np.dtype[Any]:
    """Return the smallest integer type that holds codes of a width."""
    return np.dtype(np.int8 if width <= 8 else np.int16 if width == 16 else np.int32)


def _table(width: int) -> Array:
    """Return int8 ``(256, 8 // width)``: the codes of every byte."""
    byte = np.arange(256)[:, None]
    return (((byte >> np.arange(0, 8, width)) & ((1 << width) - 1)) - (1 << (width - 1))).astype(np.int8)


_UNPACK = {2: _table(2), 4: _table(4)}
