"""Binary floating-point formats by their definition, in integers and fractions: what rounding is held against.

Neither torch nor erestore is imported. Names are those of safetensors.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple


class FloatFormat(NamedTuple):
    """Bits of exponent and significand, exponent bias, whether there is an infinity, bits of NaN and of the largest number."""

    exponent: int
    mantissa: int
    bias: int
    has_infinity: bool
    nan: int
    largest: int

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return 1 + self.exponent + self.mantissa


FORMATS = {
    "F64": FloatFormat(11, 52, 1023, True, 0x7FF8000000000000, 0x7FEFFFFFFFFFFFFF),
    "F32": FloatFormat(8, 23, 127, True, 0x7FC00000, 0x7F7FFFFF),
    "F16": FloatFormat(5, 10, 15, True, 0x7E00, 0x7BFF),
    "BF16": FloatFormat(8, 7, 127, True, 0x7FC0, 0x7F7F),
    "F8_E5M2": FloatFormat(5, 2, 15, True, 0x7E, 0x7B),
    "F8_E4M3": FloatFormat(4, 3, 7, False, 0x7F, 0x7E),
    "F8_E5M2FNUZ": FloatFormat(5, 2, 16, False, 0x80, 0x7F),
    "F8_E4M3FNUZ": FloatFormat(4, 3, 8, False, 0x80, 0x7F),
}


def rounded_bits(value: float, name: str) -> int:
    """Return the bits of a float64 `value` rounded to nearest, ties to even."""
    form = FORMATS[name]
    sign = int(math.copysign(1, value) < 0) << (form.bits - 1)
    if math.isnan(value):
        return form.nan
    if math.isinf(value):
        return sign | (form.largest + form.has_infinity)
    smallest = 1 - form.bias - form.mantissa
    exponent = max(smallest, math.frexp(value)[1] - 1 - form.mantissa)
    number = round(abs(Fraction(value)) / Fraction(2) ** exponent)  # to even
    if number == 0:
        return 0 if form.nan == 0x80 else sign  # the fnuz formats have one zero
    bits = number if exponent == smallest else number + ((exponent - smallest) << form.mantissa)
    return sign | min(bits, form.largest + form.has_infinity)


def value_of(bits: int, name: str) -> float:
    """Return the number that bits stand for."""
    form = FORMATS[name]
    magnitude = bits & ((1 << (form.bits - 1)) - 1)
    is_negative = bits >> (form.bits - 1)
    if bits == 0x80 == form.nan:
        return math.nan
    if magnitude > form.largest:
        value = math.inf if form.has_infinity and magnitude == form.largest + 1 else math.nan
    else:
        exponent, fraction = divmod(magnitude, 1 << form.mantissa)
        if exponent:
            fraction += 1 << form.mantissa
        value = math.ldexp(fraction, max(exponent, 1) - form.bias - form.mantissa)
    return -value if is_negative else value
