"""Numbers as users write them, exactly."""

from __future__ import annotations

from fractions import Fraction

_LONGEST = 400
_BITS = 1100
"""Characters of a number, and bits of its parts: as much as a float64 can need."""


def rational(text: Fraction | float | str) -> Fraction | None:
    """Return a number as it is written, exactly; None if it is none, or absurdly large or small."""
    if isinstance(text, str) and len(text) > _LONGEST:
        return None
    try:
        exponent = str(text).lower().partition("e")[2]
        if exponent and abs(int(exponent)) > _LONGEST:
            return None
        found = Fraction(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return found if max(found.numerator.bit_length(), found.denominator.bit_length()) < _BITS else None
