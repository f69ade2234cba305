"""The page of a lineage: its graph, and a list of commits, one of them in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erestore.records import EDGES
from erestore.report.figures.lineage import lineage_figure
from erestore.report.lineage import LoggedCommit, Position, lay_out, name_of
from erestore.report.pages import Chart, render
from erestore.report.words import listed, plural, size_text

_COLUMNS = 3
"""Metrics that get a column of the list: those that most commits have."""


@dataclass(frozen=True)
class Cell:
    """What is read in a table, and what it sorts by."""

    text: str
    value: str


@dataclass(frozen=True)
class Row:
    """A commit in the list.

    Attributes
    ----------
    commit, name, edge, date, subject : str
    tags, branches : tuple of str
        The name is not repeated.
    root : str
        Name of its base; empty where the list does not go back that far.
    parents : str
    stored, error : Cell
    metrics : tuple of Cell
    search : str
        What a filter looks in, in lower case.
    """

    commit: str
    name: str
    branches: tuple[str, ...]
    tags: tuple[str, ...]
    edge: str
    root: str
    parents: str
    stored: Cell
    error: Cell
    metrics: tuple[Cell, ...]
    date: str
    subject: str
    search: str


def lineage_page(entries: Sequence[LoggedCommit], store: str = "") -> str:
    """Return the page of a lineage as one file.

    Parameters
    ----------
    entries : sequence of LoggedCommit
        As ``log`` returns them.
    store : str
        Where they are from, as it is shown.
    """
    return render("lineage.html.j2", **lineage_values(entries, store))


def lineage_values(entries: Sequence[LoggedCommit], store: str = "") -> dict[str, Any]:
    """Return what the template ``lineage.html.j2`` shows; see :func:`lineage_page`."""
    places = lay_out(entries)
    by_oid = {entry.commit: entry for entry in entries}
    counted = Counter(key for entry in entries for key in entry.metrics)
    metrics = tuple(key for key, _ in sorted(counted.most_common(_COLUMNS)))
    bases = {
        position.root: name_of(by_oid[position.root]) if position.root in by_oid else position.root[:12]
        for position in places.values()
        if position.root is not None
    }
    return {
        "title": "Lineage",
        "store": store,
        "summary": _summary(entries),
        "chart": Chart("lineage", lineage_figure(entries, places)) if entries else None,
        "rows": [_row(entry, by_oid, bases.get(places[entry.commit].root or "", ""), metrics) for entry in entries],
        "metrics": metrics,
        "kinds": [kind for kind in EDGES if any(entry.edge == kind for entry in entries)],
        "bases": sorted(set(bases.values())),
        "data": {"entries": entries, "places": _position_values(places)},
        "linked": False,
    }


def _position_values(places: Mapping[str, Position]) -> dict[str, tuple[int, int, str | None]]:
    return {oid: (position.generation, position.lane, position.root) for oid, position in places.items()}


def _summary(entries: Sequence[LoggedCommit]) -> str:
    if not entries:
        return "There are no commits yet."
    branches = sum(1 for entry in entries for name in entry.refs if name not in entry.tags)
    stored = size_text(sum(entry.stored_bytes for entry in entries))
    named = plural(branches, "branch", "branches")
    said = f"{plural(len(entries), 'commit')}, {named}; they added {stored} to the store"
    return f"{said}, and their checkpoints take {size_text(sum(entry.original_bytes for entry in entries))}."


def _row(entry: LoggedCommit, by_oid: Mapping[str, LoggedCommit], root: str, metrics: Sequence[str]) -> Row:
    name = name_of(entry)
    parents = [name_of(by_oid[oid]) if oid in by_oid else oid[:12] for oid in entry.parents]
    texts = (entry.commit, *entry.refs, entry.edge, root, entry.author, entry.message)
    said = (f"{key} {value}" for key, value in entry.metrics.items())
    return Row(
        commit=entry.commit,
        name=name,
        branches=tuple(ref for ref in entry.refs if ref not in entry.tags and ref != name),
        tags=tuple(ref for ref in entry.tags if ref != name),
        edge=entry.edge,
        root=root,
        parents=listed(parents),
        stored=Cell(size_text(entry.stored_bytes), str(entry.stored_bytes)),
        error=error_cell(entry),
        metrics=tuple(_metric(entry.metrics.get(key)) for key in metrics),
        date=f"{entry.time:%Y-%m-%d %H:%M}",
        subject=entry.message.partition("\n")[0],
        search="\n".join((*texts, *said)).lower(),
    )


def error_cell(entry: LoggedCommit) -> Cell:
    """Return what is known of a commit's error, short enough for a column."""
    if entry.exact:
        return Cell("exact", "0")
    if entry.relative_error is not None:
        return Cell(f"{entry.relative_error:.2g}", repr(entry.relative_error))
    if entry.error_bound is not None:
        return Cell(f"≤ {entry.error_bound:.2g}", repr(entry.error_bound))
    return Cell("-", "-1")


def _metric(value: str | None) -> Cell:
    """Return a metric that sorts by its number, where it is one; absent ones last."""
    if value is None:
        return Cell("", "-1e300")
    try:
        return Cell(value, repr(float(value)))
    except ValueError:
        return Cell(value, value)
