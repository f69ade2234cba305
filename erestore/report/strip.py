"""The layers of a model in a few lines: a row a kind of module, a character a layer, darker where more moved.

In colour a character is a block; without, it is a digit, which pipes, screen readers and logs keep. Both say a level of a
logarithmic scale that the legend gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from erestore.report.columns import shorten, wrapped
from erestore.report.kinds import ChangeNorms, KindDiff
from erestore.report.words import listed, percent, plural

COLORS = (54, 61, 31, 37, 36, 71, 112, 184, 226)
"""Of 256: from dark violet to yellow, as Viridis; the lightness rises, so that they can be told apart without their hue."""
LEVELS = len(COLORS)
_SPANS = 4.0, 1000.0
"""Bounds of the last level over the first, so that noise is not blown up."""
_MINOR = 0.002
"""Layers that together hold this share of the squared change do not stretch the scale: norms move little, and say little."""
_GAP = "  "
_LABEL_SHARE = 0.4
_TICKS = 5
_WIDE, _WIDENED = 2, 24
"""Width in characters of a block, about square, and the number of layers up to which it is used."""
_MOST_ROWS, _MOST_COLUMNS = 24, 400
_UNCHANGED = "."
_RAMP = "█" * LEVELS


@dataclass(frozen=True)
class Scale:
    """Levels of relative norms, equal steps of their logarithm.

    Attributes
    ----------
    low, high : float
        What the first and the last level stand for; 0 where nothing moved.
    """

    low: float
    high: float

    @classmethod
    def of(cls, cells: Iterable[ChangeNorms]) -> Scale:
        """Return the scale for some layers."""
        moved = sorted((cell for cell in cells if cell.norm and cell.before), key=lambda cell: cell.relative)
        if not moved:
            return cls(0.0, 0.0)
        minor = _MINOR * math.fsum(cell.norm**2 for cell in moved)
        reached = accumulate(cell.norm**2 for cell in moved)
        low = next(cell.relative for cell, sum_ in zip(moved, reached, strict=True) if sum_ >= minor)
        high, (least, most) = moved[-1].relative, _SPANS
        return cls(min(max(low, high / most), high / least), high)

    @property
    def step(self) -> float:
        """Ratio of neighbouring levels."""
        return float((self.high / self.low) ** (1 / (LEVELS - 1))) if self.low else 1.0

    def level(self, value: float) -> int:
        """Return the level of a value, from 1; 0 for what did not move."""
        if not value:
            return 0
        if not math.isfinite(value) or not self.low:
            return LEVELS
        steps = round(math.log(value / self.low) / math.log(self.step))
        return 1 + min(max(steps, 0), LEVELS - 1)


def strip(kinds: Sequence[KindDiff], width: int | None, *, color: bool = False) -> Iterator[str]:
    """Yield the lines of a heat strip, nothing where no layer moved.

    Parameters
    ----------
    kinds : sequence of KindDiff
        Each a row, in this order; with very many, those with the most of the change.
    width : int or None
        Characters that a line may have; layers are merged with their neighbours where they are more. None for any number.
    color : bool
        Whether the terminal shows 256 colours.
    """
    rows = [kind for kind in kinds if kind.inside]
    if not any(norms.norm for kind in rows for norms in kind.inside.values()):
        return
    rest = sorted(rows, key=lambda kind: -kind.share)[_MOST_ROWS:]
    rows = [kind for kind in rows if kind not in rest]
    figures = [percent(ChangeNorms.together(kind.inside.values()).relative) for kind in rows]
    title = "moved"
    last = max(map(len, (title, *figures)))
    names = max(len("layer"), *(len(kind.kind) for kind in rows))
    if width is not None:
        names = max(len("layer"), min(names, int(_LABEL_SHARE * width)))
    depths = 1 + max(depth for kind in rows for depth in kind.inside)
    room = _MOST_COLUMNS if width is None else max(1, min(_MOST_COLUMNS, width - names - last - 2 * len(_GAP)))
    layers = -(-depths // room)
    cells = [_merge_layers(kind, depths, layers) for kind in rows]
    scale = Scale.of(cell for row in cells for cell in row if cell is not None)
    span = _WIDE if color and len(cells[0]) <= min(_WIDENED, room // _WIDE) else 1
    yield _GAP.join(("layer".ljust(names), _ruler(len(cells[0]), layers, span), title.rjust(last)))
    for kind, row, figure in zip(rows, cells, figures, strict=True):
        yield _GAP.join(
            (shorten(kind.kind, names).ljust(names), _draw(row, scale, span, color=color), figure.rjust(last))
        )
    more = f" A column is {plural(layers, 'layer')}." if layers > 1 else ""
    if any(cell is not None and not cell.norm for row in cells for cell in row):
        more = f" {_UNCHANGED} did not change.{more}"
    for line in wrapped(_legend(scale, color=color) + more, width):
        yield line.replace(_RAMP, "".join(paint("█", level) for level in range(1, LEVELS + 1)))
    if rest:
        yield from wrapped(
            f"Not shown, as they hold least of the change: {listed([kind.kind for kind in rest])}.", width
        )


def paint(text: str, level: int) -> str:
    """Return text in the colour of a level, for a terminal of 256 colours."""
    return f"\x1b[38;5;{COLORS[level - 1]}m{text}\x1b[39m"


def _merge_layers(kind: KindDiff, depths: int, layers: int) -> list[ChangeNorms | None]:
    """Return the layers of one kind, `layers` of them to a column; None where it has none."""
    columns: list[ChangeNorms | None] = []
    for start in range(0, depths, layers):
        here = [norms for depth, norms in kind.inside.items() if start <= depth < start + layers]
        columns.append(ChangeNorms.together(here) if here else None)
    return columns


def _ruler(columns: int, layers: int, span: int) -> str:
    """Return numbers of layers, each above its column, as many as there is room for."""
    line = ""
    for column in range(0, columns, _TICKS):
        text, start = str(column * layers), column * span
        if start + len(text) <= columns * span and (not line or start > len(line)):
            line = line.ljust(start) + text
    return line.ljust(columns * span)


def _draw(row: Sequence[ChangeNorms | None], scale: Scale, span: int, *, color: bool) -> str:
    levels = [None if cell is None else scale.level(cell.relative) for cell in row]
    if not color:
        return "".join(" " if level is None else str(level) if level else _UNCHANGED for level in levels)
    parts = []
    for level, same in groupby(levels):
        count = span * sum(1 for _ in same)
        parts.append(" " * count if level is None else paint("█" * count, level) if level else _UNCHANGED * count)
    return "".join(parts)


def _legend(scale: Scale, *, color: bool) -> str:
    if not scale.low:
        return f"{'█' if color else LEVELS} grew from nothing."
    low, high = percent(scale.low), percent(scale.high)
    step = f"{scale.step:.2g}× per step."
    if color:
        return f"Scale: ≤ {low} of the norm {_RAMP} ≤ {high}, {step}"
    return f"Scale: 1 ≤ {low} of the norm, {LEVELS} ≤ {high}, {step}"
