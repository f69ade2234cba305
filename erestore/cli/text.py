"""Text on a terminal: how quantities read, and plain tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import click

from erestore.checkpoint.spelling import WRAPPERS
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
    "matching_text",
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


def matching_text(matching: str) -> str:
    """Say how names were matched, given pairs such as ``'' → 'bert.'``: what is taken off, and what is put on."""
    return ", ".join(_exchange(prefix, base) for prefix, base in re.findall(r"'([^']*)' → '([^']*)'", matching))


def _exchange(prefix: str, base: str) -> str:
    if prefix and base:
        return f"replacing prefix '{prefix}' with '{base}'"
    what = "wrapper" if (prefix or base).rstrip(".") in WRAPPERS else "prefix"
    return f"adding {what} '{base}'" if base else f"removing {what} '{prefix}'"
