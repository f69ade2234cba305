"""Curves in characters: both axes logarithmic, one mark a curve."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_LINES = 16
_DECADES = 6
"""Values are drawn down to this many powers of ten below the largest."""
_MARGIN = 8
_NARROWEST, _WIDEST = 16, 72


@dataclass(frozen=True)
class Curve:
    """A curve.

    Attributes
    ----------
    name : str
    mark : str
        One character.
    color : int
        Of 256.
    x : sequence of int
        Ascending, from 1.
    y : sequence of float
        One for each; at zero the curve ends.
    """

    name: str
    mark: str
    color: int
    x: Sequence[int]
    y: Sequence[float]

    def at(self, x: float) -> float:
        """Return the value at any `x`, between points on a straight line of logarithms; 0 beyond its end."""
        after = bisect_left(self.x, x)
        if after == len(self.x):
            return 0.0
        if self.x[after] <= x or not after:
            return self.y[after]
        low, high = self.y[after - 1], self.y[after]
        if not (low and high):
            return 0.0
        left, right = math.log(self.x[after - 1]), math.log(self.x[after])
        part = (math.log(x) - left) / (right - left)
        return math.exp((1 - part) * math.log(low) + part * math.log(high))


def plot(curves: Sequence[Curve], width: int | None, *, color: bool = False) -> Iterator[str]:
    """Yield the lines of a plot and its legend; of curves that meet the first is seen.

    Parameters
    ----------
    curves : sequence of Curve
        Values between 0 and 1; at least one point that is not 0.
    width : int or None
        Characters that a line may have.
    color : bool
        Whether the terminal shows 256 colours.
    """
    columns = _WIDEST if width is None else min(_WIDEST, max(_NARROWEST, width - _MARGIN))
    last = max(curve.x[-1] for curve in curves)
    smallest = min(y for curve in curves for y in curve.y if y > 0)
    decades = min(_DECADES, max(1, math.ceil(-math.log10(smallest))))
    step = max(2, _LINES // decades)
    height = min(decades * step, math.ceil(-math.log10(smallest) * step)) + 1
    picture: list[list[Curve | None]] = [[None] * columns for _ in range(height)]
    for curve in reversed(curves):
        for column in range(columns):
            y = curve.at(_x(column, columns, last))
            row = round(-math.log10(y) * step) if y > 0 else height
            if row < height:
                picture[row][column] = curve
    for number, line in enumerate(picture):
        label = _decade(number // step) if number % step == 0 else ""
        axis = "┤" if label else "│"
        drawn = "".join(" " if curve is None else _painted(curve, color=color) for curve in line)
        yield f"{label:>{_MARGIN - 3}} {axis}{drawn}".rstrip()
    yield " " * (_MARGIN - 2) + "└" + "─" * columns
    yield " " * (_MARGIN - 1) + _ruler(columns, last)
    entries = [f"{_painted(curve, color=color)} {curve.name}" for curve in curves]
    is_short = width is None or _MARGIN + sum(4 + len(curve.name) for curve in curves) <= width
    for entry in ["  ".join(entries)] if is_short else entries:
        yield " " * (_MARGIN - 1) + entry


def _x(column: int, columns: int, last: int) -> float:
    """Return what a column stands for; a column that is about a whole number stands for just that."""
    x = float(last ** (column / (columns - 1)))
    return float(round(x)) if abs(x - round(x)) < 1e-9 * x else x


def _decade(number: int) -> str:
    return f"{10.0**-number:.{number}f}" if number <= 3 else f"1e-{number}"


def _painted(curve: Curve, *, color: bool) -> str:
    return f"\x1b[38;5;{curve.color}m{curve.mark}\x1b[39m" if color else curve.mark


def _ruler(columns: int, last: int) -> str:
    """Return powers of two (of four, where they are many) and the last value, each where it is."""
    end, line = str(last), ""
    step = 2 if last <= 64 else 4
    for tick in (step**power for power in range(last.bit_length()) if step**power < last):
        text, start = str(tick), round(math.log(tick) / math.log(last) * (columns - 1))
        if (not line or start > len(line)) and start + len(text) < columns - len(end):
            line = line.ljust(start) + text
    return line.ljust(columns - len(end)) + end
