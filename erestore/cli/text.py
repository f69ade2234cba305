"""Text on a terminal: how quantities read, and plain tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from erestore.report.words import (
    SHORT,
    coefficient_text,
    date_text,
    error_text,
    listed,
    minute_text,
    plural,
    printable,
    share_text,
    short,
    size_text,
)

__all__ = [
    "SHORT",
    "coefficient_text",
    "date_text",
    "error_text",
    "listed",
    "minute_text",
    "plural",
    "printable",
    "share_text",
    "short",
    "size_text",
    "table",
]


def table(rows: Sequence[Sequence[str]], *, right: Iterable[int] = (), header: Sequence[str] | None = None) -> str:
    """Return rows in aligned columns.

    Parameters
    ----------
    rows : sequence of sequence of str
        May be coloured; widths count what is seen.
    right : iterable of int
        Columns that are aligned to the right.
    header : sequence of str, optional
    """
    shown = [*([[title and click.style(title, bold=True) for title in header]] if header else []), *rows]
    if not shown:
        return ""
    right = set(right)
    widths = [max(len(click.unstyle(row[column])) for row in shown) for column in range(len(shown[0]))]
    lines = []
    for row in shown:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - len(click.unstyle(cell)))
            cells.append(gap + cell if column in right else cell + gap)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
