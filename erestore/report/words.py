"""How quantities read: sizes, errors, times, names from elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from fractions import Fraction

SHORT = 12
"""Digits of an oid that people see."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What moves the cursor or colours what follows, and what has the letters around it read in another order."""


_ABSENT = "-"


def size_text(size: int) -> str:
    """Return a size in bytes as people read it: ``813 B``, ``2.9 MB``, ``267 MB``."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    unit = ""
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def share_text(part: int, whole: int) -> str:
    """Return a size and its share of another: ``2.9 MB, 11 % of 26.7 MB``."""
    if not whole:
        return size_text(part)
    percent = 100 * part / whole
    digits = 0 if percent >= 9.95 else 1 if percent >= 0.095 else 2
    return f"{size_text(part)}, {percent:.{digits}f} % of {size_text(whole)}"


def error_text(error: float | None, *, exact: bool, bound: float | None = None, lossy: float | None = None) -> str:
    """Return a relative error in words where words are clearer.

    Parameters
    ----------
    error : float or None
    exact : bool
    bound : float, optional
        Upper bound, where the error was not measured; above 1 it says nothing.
    lossy : float, optional
        What is left without the exact remainder, to be said of what is exact.
    """
    if exact:
        return f"exact, relative error {lossy:.2g} without the exact remainder" if lossy else "exact"
    if error is None:
        if bound is None:
            return "error not recorded"
        return f"relative error at most {bound:.2g}" if bound <= 1 else "no useful bound of the error"
    return f"relative error {error:.2g}" if error else "relative error 0"


def coefficient_text(value: Fraction | float | str) -> str:
    """Return a coefficient as people read it: a fraction of small numbers as it is, others as six digits.

    Parameters
    ----------
    value : Fraction, float or str
        Text as in a record: ``1/3``, ``-2``, ``0.1``.
    """
    try:
        number = Fraction(value)
    except (ValueError, OverflowError):  # not finite, or no number at all
        return str(value)
    return str(number) if number.denominator < 1000 and abs(number.numerator) < 1e6 else f"{float(number):.6g}"


def date_text(moment: datetime) -> str:
    """Return a time as git writes it, in the local time zone."""
    return moment.astimezone().strftime("%a %b %d %H:%M:%S %Y %z")


def minute_text(moment: datetime) -> str:
    """Return a short time, in the local time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def short(oid: str) -> str:
    """Return the start of an oid."""
    return oid[:SHORT]


def printable(text: str) -> str:
    """Return text that somebody else wrote without what could steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def printable_line(text: str) -> str:
    """Return one line that holds names from elsewhere: as :func:`printable`, and without breaks and tabs."""
    return re.sub("[\t\n]", "\N{REPLACEMENT CHARACTER}", printable(text))


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count and its noun: ``1 commit``, ``3 commits``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Iterable[str], most: int = 3, separator: str = ", ") -> str:
    """Return the first few of many names, and how many more there are."""
    names = list(names)
    rest = len(names) - most
    return separator.join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def percent(value: float | None, digits: int = 2) -> str:
    """Return a share as people read it: ``24 %``, ``4.8 %``, ``0.031 %``, ``483 %``; ``∞`` for what grew from nothing.

    Parameters
    ----------
    value : float or None
        1 for 100 %.
    digits : int
        Significant ones.
    """
    if value is None:
        return _ABSENT
    if math.isinf(value):
        return "∞"
    scaled = 100 * value
    if scaled >= 1e6:
        return f"{scaled:.1e} %"
    if 0 < scaled < 0.001:
        return "< 0.001 %"
    return f"{_rounded(scaled, digits)} %"


def ratio_text(value: float | None) -> str:
    """Return a ratio to two digits: ``0.91``, ``1.3``, ``12``."""
    return _ABSENT if value is None else _rounded(value, 2)


def rank_text(effective: float | None, full: int) -> str:
    """Return an effective rank and the full one: ``94/256``."""
    if effective is None:
        return _ABSENT
    return f"{effective:.0f}/{full}" if effective >= 9.95 else f"{effective:.1f}/{full}"


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape: ``768×3072``; 1 for a scalar."""
    return "×".join(map(str, shape)) or "1"


def _rounded(value: float, digits: int) -> str:
    """Return a number with `digits` significant digits, and all of those before the point."""
    if not value:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return f"{value:.{max(0, digits - 1 - power)}f}"
