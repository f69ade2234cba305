"""The lineage drawn in characters beside the commits, as ``git log --graph`` does.

Column ``i`` is at character ``2 i``. A *strand* is a column that waits for one commit: the parent of something above.
Each commit is drawn in its strand's column; then its strand goes on to its first parent, further parents get strands
beside it, and strands that wait for the same commit run together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

import click

COLORS = ("red", "green", "yellow", "blue", "magenta", "cyan")


def draw(commits: Iterable[tuple[str, Sequence[str], Sequence[str]]]) -> Iterator[str]:
    """Yield the lines of a drawing.

    Parameters
    ----------
    commits : iterable of (oid, parents, lines of text)
        Children before their parents. A parent that does not come is drawn as a line that leaves at the bottom.
    """
    strands: list[str] = []
    for oid, parents, text in commits:
        if oid not in strands:
            strands.append(oid)
        column = strands.index(oid)
        node = ["|"] * len(strands)
        node[column] = "*"
        rows = [" ".join(node), *_continue(strands, column, parents)]
        rows += [" ".join("|" * len(strands))] * (len(text) - len(rows))
        width = max(map(len, rows))
        for row, line in zip_longest(rows, text, fillvalue=""):
            yield f"{_colored(row)}{'':{width - len(row)}} {line}".rstrip()


def _continue(strands: list[str], column: int, parents: Sequence[str]) -> list[str]:
    """Lead the strands past a commit; return the rows that show it."""
    rows = []
    if not parents:
        if column + 1 < len(strands):
            rows.append(_row(["|"] * column, len(strands), _lefts(column + 1, len(strands))))
        del strands[column]
        return rows
    strands[column] = parents[0]
    for number, parent in enumerate(parents[1:], 1):
        position = column + number
        # Everything from here on makes room by a step to the right.
        rows.append(
            _row(["|"] * position, len(strands) + 1, {2 * at + 1: "\\" for at in range(position - 1, len(strands))})
        )
        strands.insert(position, parent)
    while (double := _double(strands)) is not None:
        rows += _join(strands, *double)
    return rows


def _double(strands: Sequence[str]) -> tuple[int, int] | None:
    """Return the first strand that waits for the same commit as one to its left, after that one."""
    for right, oid in enumerate(strands):
        if (left := strands.index(oid)) < right:
            return left, right
    return None


def _join(strands: list[str], left: int, right: int) -> list[str]:
    """Run a strand into one to its left; those beyond it take a step to the left."""
    count = len(strands)
    lines = {2 * at + 1: "_" for at in range(left + 1, right - 1)} if right - left > 2 else {}
    rows = [_row(["|"] * right, count, lines | _lefts(right, count))]
    del strands[right]
    if right - left > 1:
        rows.append(_row(["|"] * len(strands), len(strands), {2 * left + 1: "/"}))
    return rows


def _lefts(first: int, count: int) -> dict[int, str]:
    return {2 * at - 1: "/" for at in range(first, count)}


def _row(columns: Sequence[str], count: int, marks: dict[int, str]) -> str:
    characters = [" "] * (2 * count)
    for at, mark in enumerate(columns):
        characters[2 * at] = mark
    for position, mark in marks.items():
        characters[position] = mark
    return "".join(characters).rstrip()


def _colored(row: str) -> str:
    return "".join(
        mark if mark in " *" else click.style(mark, fg=COLORS[(position // 2) % len(COLORS)])
        for position, mark in enumerate(row)
    )
