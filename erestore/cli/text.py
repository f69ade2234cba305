"""How quantities read: sizes, errors, times, names from elsewhere; and plain tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

import click

from erestore.report.numbers import error_text, share_text, size_text

__all__ = [
    "SHORT",
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

SHORT = 12
"""Digits of an oid that people see."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def date_text(moment: datetime) -> str:
    """Return a time as git writes it, in the local time zone."""
    return moment.astimezone().strftime("%a %b %d %H:%M:%S %Y %z")


def minute_text(moment: datetime) -> str:
    """Return a time in short, in the local time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def short(oid: str) -> str:
    """Return the start of an oid."""
    return oid[:SHORT]


def printable(text: str) -> str:
    """Return text that somebody else wrote without what could steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count and its noun: ``1 commit``, ``3 commits``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Iterable[str], most: int = 3) -> str:
    """Return the first few of many names."""
    names = list(names)
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


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
