"""Numbers of the form ``integer * 2**exponent``: exact in float64, stored as two integers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from erestore.errors import CorruptionError

EXPONENT_LIMIT = 900
"""Largest absolute exponent stored: values stay normal float64 numbers when multiplied by codes."""


class Dyadic(NamedTuple):
    """``mantissa * 2**exponent``."""

    mantissa: int
    exponent: int

    @property
    def value(self) -> float:
        """Return the float64 number, exactly."""
        return math.ldexp(float(self.mantissa), self.exponent)


def nearest(value: float, bits: int) -> Dyadic:
    """Return the dyadic number with a mantissa of at most `bits` bits that is nearest to `value`."""
    fraction, exponent = math.frexp(value)
    mantissa = round(math.ldexp(fraction, bits))
    exponent -= bits
    while mantissa and mantissa % 2 == 0:
        mantissa //= 2
        exponent += 1
    if mantissa == 0 or exponent < -EXPONENT_LIMIT:
        return Dyadic(0, 0)
    return Dyadic(mantissa, exponent)


def read(stored: Any, bits: int) -> Dyadic:
    """Check a stored pair."""
    try:
        mantissa, exponent = stored
    except (TypeError, ValueError) as error:
        raise CorruptionError("A dyadic number is malformed.") from error
    if (
        type(mantissa) is int
        and type(exponent) is int
        and abs(mantissa) <= 1 << bits
        and abs(exponent) <= EXPONENT_LIMIT
    ):
        return Dyadic(mantissa, exponent)
    raise CorruptionError("A dyadic number is out of range.")
