"""Coefficients as records hold them: text of one canonical form."""

from __future__ import annotations

from fractions import Fraction

from erestore.errors import CorruptionError

Coefficient = Fraction | float
"""A term's coefficient: an exact rational while numerator and denominator stay below 2**63, else a float64."""

_LARGEST = 2**63


def format_coefficient(value: Coefficient) -> str:
    """Write the one canonical form: ``-2``, ``1/3``, or the shortest float64 text with a ``.`` or ``e``."""
    if isinstance(value, Fraction):
        if abs(value.numerator) < _LARGEST and value.denominator < _LARGEST:
            return str(value)
        value = value.numerator / value.denominator
    return repr(value)


def parse_coefficient(text: str) -> Coefficient:
    """Read a stored coefficient, refusing any form but the canonical one."""
    try:
        value: Coefficient = float(text) if any(c in text for c in ".einf") else Fraction(text)
        if format_coefficient(value) == text and value == value and abs(value) != float("inf"):  # noqa: PLR0124 - NaN
            return value
    except (ValueError, ZeroDivisionError, OverflowError):
        pass
    raise CorruptionError(f"'{text}' is not a coefficient.")
