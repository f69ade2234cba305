"""One rounding, correctly: float64 to the tensor's data type, to nearest, ties to even, the same on every machine.

Conversions to narrow types round float64 twice (through float32), which differs in rare elements. Rounding to float32 *to
odd* first makes the second rounding innocuous for every type with at most 22 bits of precision (Boldo and Melquiond, 2008).

What a conversion makes of NaN, and of overflow where the type has no infinity, differs between processors and libraries; so
NaN becomes the one NaN of :data:`_NAN`, and types without infinity saturate.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from erestore.arrays import BFLOAT16, Array, largest_value, without_warnings

_NAN = {
    "float64": 0x7FF8000000000000,
    "float32": 0x7FC00000,
    "float16": 0x7E00,
    "bfloat16": 0x7FC0,
    "float8_e5m2": 0x7E,
    "float8_e4m3fn": 0x7F,
    "float8_e5m2fnuz": 0x80,
    "float8_e4m3fnuz": 0x80,
}
"""Bits of the quiet NaN of every type that is rounded to."""
_FINITE = {"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz"}
"""Types without infinity."""
_BELOW_FLOAT32 = np.int64((1 << 29) - 1)
"""The bits of a float64 significand that float32 has no room for."""
_AT_ONCE = 1 << 18
"""Elements rounded at a time: what is needed meanwhile is several times as large as the result."""
_SMALLEST_NORMAL = 0x0080
_SUBNORMALS = 2.0**133
"""One over the spacing of bfloat16's subnormal numbers."""


def round_to(values: Array, dtype: np.dtype[Any]) -> Array:
    """Round float64 `values` to `dtype`.

    Parameters
    ----------
    values : ndarray
        Float64, any shape.
    dtype : dtype
        A floating data type.

    Returns
    -------
    ndarray
        May share memory with `values`.
    """
    if not values.ndim:
        return round_to(values.reshape(1), dtype).reshape(())
    if values.size > 2 * _AT_ONCE:
        flat, rounded = values.reshape(-1), np.empty(values.size, dtype)
        for start in range(0, values.size, _AT_ONCE):
            rounded[start : start + _AT_ONCE] = round_to(flat[start : start + _AT_ONCE], dtype)
        return rounded.reshape(values.shape)
    # A sum costs one pass and is finite nearly always; only otherwise is it worth looking at every element.
    with without_warnings():
        is_finite = bool(np.isfinite(values.sum()))
        if dtype.name in _FINITE:
            values = np.clip(values, -largest_value(dtype), largest_value(dtype))
        if dtype == BFLOAT16:
            rounded = _to_bfloat16(values)
        else:
            rounded = (values if dtype.itemsize >= 4 else _to_odd(values)).astype(dtype, copy=False)
    if not is_finite and (unordered := np.isnan(values)).any():
        rounded = np.array(rounded)
        rounded.view(f"u{dtype.itemsize}")[unordered] = _NAN[dtype.name]
    return rounded


def _to_odd(values: Array) -> Array:
    """Return float32: cut off what does not fit, and make the last bit odd where that was not zero."""
    bits = np.ascontiguousarray(values).view(np.int64)
    odd = bits & _BELOW_FLOAT32
    odd += _BELOW_FLOAT32
    odd |= bits
    odd &= ~_BELOW_FLOAT32
    rounded: Array = odd.view(np.float64).astype(np.float32)
    return rounded


def _to_bfloat16(values: Array) -> Array:
    """Return bfloat16, the upper half of a float32; NaN is left to the caller."""
    bits = _to_odd(values).view(np.uint32)
    carry = (bits >> np.uint32(16)) & np.uint32(1)
    carry += np.uint32(0x7FFF)
    bits += carry
    rounded = (bits >> np.uint32(16)).astype(np.uint16)
    # Float32 has the exponents of bfloat16, so both are subnormal together, and float32 has rounded those itself.
    tiny = (rounded & np.uint16(0x7FFF)) <= _SMALLEST_NORMAL
    if tiny.any():
        exact = np.rint(values[tiny] * _SUBNORMALS) / _SUBNORMALS
        rounded[tiny] = (exact.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return rounded.view(BFLOAT16)
