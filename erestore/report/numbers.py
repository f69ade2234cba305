"""How quantities read in a report."""

from __future__ import annotations

import math
from collections.abc import Sequence

_ABSENT = "-"


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


def count_text(count: int, noun: str) -> str:
    """Return a count and its noun: ``1 tensor``, ``3 tensors``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape: ``768×3072``; 1 for a scalar."""
    return "×".join(map(str, shape)) or "1"


def listed(names: Sequence[str], most: int = 3, separator: str = ", ") -> str:
    """Return the first few of many names, and how many more there are."""
    rest = len(names) - most
    return separator.join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _rounded(value: float, digits: int) -> str:
    """Return a number with so many significant digits, but never with digits before the point cut off."""
    if not value:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return f"{value:.{max(0, digits - 1 - power)}f}"
