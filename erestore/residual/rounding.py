"""One rounding, correctly: float64 to the tensor's dtype, to nearest, ties to even, the same on every device.

``tensor.to(torch.bfloat16)`` rounds float64 twice (through float32), which differs in rare elements. Rounding to float32 *to
odd* first makes the second rounding innocuous for every dtype with at most 22 bits of precision (Boldo and Melquiond, 2008).

What a conversion makes of NaN, and of overflow where the dtype has no infinity, differs between processors and versions of
torch; so NaN becomes the one NaN of :data:`_NAN`, and dtypes without infinity saturate.
"""

from __future__ import annotations

import torch

_NAN = {
    torch.float64: 0x7FF8000000000000,
    torch.float32: 0x7FC00000,
    torch.float16: 0x7E00,
    torch.bfloat16: 0x7FC0,
    torch.float8_e5m2: 0x7E,
    torch.float8_e4m3fn: 0x7F,
    torch.float8_e5m2fnuz: -0x80,
    torch.float8_e4m3fnuz: -0x80,
}
"""Bits of the quiet NaN of every dtype that is rounded to, as a signed integer."""
_FINITE = {torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz}
"""Dtypes without infinity."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_BELOW_FLOAT32 = (1 << 29) - 1
"""The bits of a float64 significand that float32 has no room for."""
_SMALLEST_NORMAL = 0x0080
_SUBNORMALS = 2.0**133
"""One over the spacing of bfloat16's subnormal numbers."""


def round_to(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 `values` to `dtype`.

    Parameters
    ----------
    values : torch.Tensor
        Float64, any shape.
    dtype : torch.dtype
        A floating dtype.

    Returns
    -------
    torch.Tensor
        May share memory with `values`.
    """
    if dtype in _FINITE:
        values = values.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    rounded = values.to(dtype) if dtype.itemsize >= 4 else _to_odd(values).to(dtype)
    if dtype == torch.bfloat16:
        _correct_subnormals(values, rounded)
    # A sum costs one pass and is finite nearly always; only otherwise is it worth looking at every element.
    if not bool(torch.isfinite(values.sum())) and bool((unordered := torch.isnan(values)).any()):
        bits = rounded.view(_INTEGERS[dtype.itemsize])
        rounded = torch.where(unordered, torch.tensor(_NAN[dtype], dtype=bits.dtype), bits).view(dtype)
    return rounded


def _to_odd(values: torch.Tensor) -> torch.Tensor:
    """Return float32: cut off what does not fit, and make the last bit odd where that was not zero."""
    bits = values.view(torch.int64)
    odd = (bits & _BELOW_FLOAT32).add_(_BELOW_FLOAT32).bitwise_or_(bits).bitwise_and_(~_BELOW_FLOAT32)
    return odd.view(torch.float64).to(torch.float32)


def _correct_subnormals(values: torch.Tensor, rounded: torch.Tensor) -> None:
    """Round again, in place, what float32 rounds itself: it has the exponents of bfloat16, so both are subnormal together."""
    tiny = (rounded.view(torch.int16) & 0x7FFF) <= _SMALLEST_NORMAL
    if bool(tiny.any()):
        rounded[tiny] = (torch.round(values[tiny] * _SUBNORMALS) / _SUBNORMALS).to(torch.bfloat16)
