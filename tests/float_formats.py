"""Binary floating-point formats by their definition, in integers and fractions: what rounding is held against."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import torch


class FloatFormat(NamedTuple):
    """Bits of exponent and significand, exponent bias, whether the top exponent is for infinity and NaN, bits of NaN."""

    exponent: int
    mantissa: int
    bias: int
    has_infinity: bool
    nan: int
    largest: int
    """Bits of the largest finite number."""


FORMATS = {
    torch.float32: FloatFormat(8, 23, 127, True, 0x7FC00000, 0x7F7FFFFF),
    torch.float16: FloatFormat(5, 10, 15, True, 0x7E00, 0x7BFF),
    torch.bfloat16: FloatFormat(8, 7, 127, True, 0x7FC0, 0x7F7F),
    torch.float8_e5m2: FloatFormat(5, 2, 15, True, 0x7E, 0x7B),
    torch.float8_e4m3fn: FloatFormat(4, 3, 7, False, 0x7F, 0x7E),
    torch.float8_e5m2fnuz: FloatFormat(5, 2, 16, False, 0x80, 0x7F),
    torch.float8_e4m3fnuz: FloatFormat(4, 3, 8, False, 0x80, 0x7F),
}


def rounded_bits(value: float, dtype: torch.dtype) -> int:
    """Return the bits of `value` rounded to nearest, ties to even."""
    form = FORMATS[dtype]
    sign = int(math.copysign(1, value) < 0) << (form.exponent + form.mantissa)
    if math.isnan(value):
        return form.nan
    if math.isinf(value):
        return sign | (form.largest + form.has_infinity)
    magnitude = abs(Fraction(value))
    smallest = 1 - form.bias - form.mantissa
    exponent = max(smallest, math.frexp(value)[1] - 1 - form.mantissa)
    number = round(magnitude / Fraction(2) ** exponent)  # to even
    if number == 0:
        return 0 if form.nan == 0x80 else sign  # the fnuz formats have one zero
    bits = number if exponent == smallest else number + ((exponent - smallest) << form.mantissa)
    return sign | min(bits, form.largest + form.has_infinity)


def bits_of(tensor: torch.Tensor) -> list[int]:
    """Return the bits of every element as unsigned integers."""
    width = 8 * tensor.element_size()
    kind = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[width]
    return [int(value) & ((1 << width) - 1) for value in tensor.contiguous().view(kind).reshape(-1)]
