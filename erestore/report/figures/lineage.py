"""The lineage as a graph: commits by generation and branch, joined to what they were made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from erestore.records import EDGES
from erestore.report.columns import shorten
from erestore.report.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, figure, graph_objects, whole_numbers
from erestore.report.lineage import LoggedCommit, Position, lay_out, name_of
from erestore.report.words import error_text, listed, share_text

if TYPE_CHECKING:
    from plotly import graph_objects as go


class Style(NamedTuple):
    """How a kind of commit and the lines to its parents are drawn."""

    color: str
    symbol: str
    dash: str = "solid"
    turns: bool = True


STYLES = {
    "imported": Style(GREY, "square"),
    "adapted": Style(BLUE, "circle"),
    "versioned": Style("#4a7f8c", "circle-open"),
    "merged": Style(ORANGE, "diamond", "dash", turns=False),
    "picked": Style(GREEN, "triangle-up", "dot", turns=False),
    "reverted": Style("#c2487f", "triangle-down", "dashdot", turns=False),
    "flattened": Style(PURPLE, "hexagon"),
    "rebased": Style("#b8860b", "pentagon", "longdash"),
}
"""Told apart by colour, by the form of the mark and by the line."""

LABELLED = 40
"""Lanes up to which names are written beside the marks."""
_LABEL = 22
_MANY = 300
"""Commits from which on marks are small."""
_METRICS, _LINE = 8, 90
"""Metrics, and characters of a line, that are shown where a mark is pointed to."""


def lineage_figure(entries: Sequence[LoggedCommit], places: Mapping[str, Position] | None = None) -> go.Figure:
    """Draw commits by generation (across) and branch (down), marks as large as what they added, and lines to their parents.

    A mark's oid is its `customdata`.

    Parameters
    ----------
    entries : sequence of LoggedCommit
        As ``log`` returns them.
    places : Mapping[str, Position], optional
        What :func:`erestore.report.lineage.lay_out` made of them.
    """
    places = lay_out(entries) if places is None else places
    by_oid = {entry.commit: entry for entry in entries}
    by_kind = {kind: [entry for entry in entries if entry.edge == kind] for kind in EDGES}
    lanes = 1 + max((position.lane for position in places.values()), default=0)
    largest = max((entry.stored_bytes for entry in entries), default=0)
    drawn = {kind: commits for kind, commits in by_kind.items() if commits}
    traces = []
    for kind, commits in drawn.items():
        sizes = [_size(entry, largest, len(entries)) for entry in commits]
        traces.append(_marks(kind, commits, places, sizes, [_about(entry, by_oid) for entry in commits], lanes))
    edge = max(0.6, 0.02 * lanes)
    ends = _across(places, lanes)
    # The room that is needed is known, and need not be found by drawing twice.
    axis = {"automargin": False, "showgrid": False, "showline": False}
    fig = figure(
        traces,
        x="generation",
        y="",
        about="Lineage: commits by generation and branch, joined to what they were made from.",
        height=min(620, max(260, 110 + 26 * lanes)),
        hovermode="closest",
        shapes=[_lines(kind, commits, places) for kind, commits in drawn.items()],
        margin={"l": 8, "r": 8, "t": 12, "b": 44},
        xaxis={**axis, **whole_numbers(*ends), "range": ends},
        yaxis={**axis, "range": [lanes - 1 + edge, -edge], "showticklabels": False},
    )
    fig.update_layout(legend={"itemclick": False, "itemdoubleclick": False})
    return fig


def _across(places: Mapping[str, Position], lanes: int) -> tuple[float, float]:
    """Return the ends of the axis of generations; names are written to the right of marks."""
    last = max((position.generation for position in places.values()), default=0)
    return -0.3, last + 0.3 + (0.25 * (last + 1) if lanes <= LABELLED else 0)


def _lines(kind: str, entries: Sequence[LoggedCommit], places: Mapping[str, Position]) -> dict[str, Any]:
    """Return the lines from commits of one kind to their parents: one path, as thousands of marks are enough to draw."""
    below: dict[Position, list[Position]] = {}
    for entry in entries:
        for parent in entry.parents:
            if parent in places:
                below.setdefault(places[parent], []).append(places[entry.commit])
    path = []
    for start, ends in below.items():
        if STYLES[kind].turns:
            lanes = [start.lane, *(end.lane for end in ends)]
            path.append(f"M{start.generation},{min(lanes)}V{max(lanes)}")
            path += [f"M{start.generation},{end.lane}H{end.generation}" for end in ends]
        else:
            path += [f"M{start.generation},{start.lane}L{end.generation},{end.lane}" for end in ends]
    style = STYLES[kind]
    return {
        "type": "path",
        "name": kind,
        "path": "".join(path) or "M0,0",
        "layer": "below",
        # As a colour: an opacity of the whole makes browsers draw twice.
        "line": {"color": _faint(style.color), "width": 1.2, "dash": style.dash},
    }


def _faint(color: str) -> str:
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return f"rgba({red},{green},{blue},0.55)"


def _marks(
    kind: str,
    entries: Sequence[LoggedCommit],
    places: Mapping[str, Position],
    sizes: Sequence[float],
    about: Sequence[str],
    lanes: int,
) -> go.Scatter:
    style = STYLES[kind]
    marker: dict[str, Any] = {"color": style.color, "symbol": style.symbol, "size": sizes}
    marker["line"] = {"color": style.color, "width": 2 if style.symbol.endswith("-open") else 0}
    return graph_objects().Scatter(
        x=[places[entry.commit].generation for entry in entries],
        y=[places[entry.commit].lane for entry in entries],
        customdata=[entry.commit for entry in entries],
        hovertext=about,
        hoverinfo="text",
        text=[_label(entry) if lanes <= LABELLED else "" for entry in entries],
        textposition="middle right",
        mode="markers+text" if lanes <= LABELLED else "markers",
        marker=marker,
        name=kind,
    )


def _label(entry: LoggedCommit) -> str:
    """Return what is written beside a mark: former versions have no name, their oids would cover those of later ones."""
    return escape(shorten(name_of(entry), _LABEL), quote=False) if entry.refs else ""


def _size(entry: LoggedCommit, largest: int, count: int) -> float:
    """Return a diameter in pixels, its square growing with the bytes."""
    smallest, more = (5.0, 9.0) if count > _MANY else (8.0, 14.0)
    return round(smallest + more * math.sqrt(entry.stored_bytes / largest), 2) if largest else smallest


def _about(entry: LoggedCommit, by_oid: Mapping[str, LoggedCommit]) -> str:
    """Return what is said of a commit that is pointed to."""
    return "<br>".join(escape(line, quote=False) for line in _hover_lines(entry, by_oid))


def _hover_lines(entry: LoggedCommit, by_oid: Mapping[str, LoggedCommit]) -> Iterator[str]:
    yield f"{name_of(entry)}  {entry.commit[:12]}" if entry.refs else entry.commit[:12]
    parents = [name_of(by_oid[oid]) if oid in by_oid else oid[:12] for oid in entry.parents]
    yield f"{entry.edge} from {listed(parents)}" if parents else entry.edge
    yield share_text(entry.stored_bytes, entry.original_bytes)
    if entry.parents:
        yield error_text(entry.relative_error, exact=entry.exact, bound=entry.error_bound, lossy=entry.lossy_error)
    for key, value in sorted(entry.metrics.items())[:_METRICS]:
        yield f"{key} {value}"[:_LINE]
    if entry.message:
        yield entry.message.partition("\n")[0][:_LINE]
