"""Tables of plain text that fit a width: what matters least is left out first, then names are shortened."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_GAP = "  "
_NAME_WIDTH = 36
_NAME_SHARE = 0.4
"""Columns are left out before names get less than these characters and this share of the width."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes
    ----------
    title : str
    cells : sequence of str
    drop : int
        Columns with larger numbers are left out before those with smaller ones; 0 is never left out.
    right : bool
        Aligned to the right.
    """

    title: str
    cells: Sequence[str]
    drop: int
    right: bool = True

    @property
    def width(self) -> int:
        """Characters of the widest cell."""
        return max(map(len, (self.title, *self.cells)))


def table(columns: Sequence[Column], width: int | None) -> Iterator[str]:
    """Yield a header and one line per row; the first column holds names.

    Parameters
    ----------
    columns : sequence of Column
    width : int or None
        Characters a line may have; None for as many as it takes.
    """
    shown = list(columns)
    names = columns[0].width
    if width is not None:
        while _room(shown, width) < min(names, max(_NAME_WIDTH, int(_NAME_SHARE * width))) and (
            worst := max(column.drop for column in shown)
        ):
            shown.remove(next(column for column in reversed(shown) if column.drop == worst))
        names = max(min(names, _room(shown, width)), 1)
    for row in zip(*((column.title, *column.cells) for column in shown), strict=True):
        cells = [shorten(row[0], names).ljust(names)]
        for column, cell in zip(shown[1:], row[1:], strict=True):
            cells.append(cell.rjust(column.width) if column.right else cell.ljust(column.width))
        yield _GAP.join(cells).rstrip()


def shorten(text: str, width: int) -> str:
    """Return text of at most `width` characters, cut nearer to its front: the ends of tensors' names tell them apart."""
    if len(text) <= width:
        return text
    front = (width - 1) // 5
    return f"{text[:front]}…{text[len(text) - (width - 1 - front) :]}" if width > 1 else "…"[:width]


def wrapped(text: str, width: int | None) -> list[str]:
    """Return the lines of a sentence, of at most `width` characters unless one word is longer; None for one line."""
    if width is None:
        return [text] if text else []
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _room(columns: Sequence[Column], width: int) -> int:
    """Return what is left for the names."""
    return width - sum(len(_GAP) + column.width for column in columns[1:])
