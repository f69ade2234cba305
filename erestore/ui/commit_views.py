"""Views of commits: the lineage, and one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request

from erestore.errors import NotFoundError
from erestore.ops.log import LogEntry
from erestore.ops.show import ShowResult, show
from erestore.progress import Progress
from erestore.report.json_values import json_text
from erestore.report.lineage import name_of
from erestore.report.lineage_page import Cell, lineage_values
from erestore.report.words import error_text, percent, plural, share_text, size_text
from erestore.ui.desk import Desk
from erestore.ui.pages import page
from erestore.ui.snapshots import Snapshot
from erestore.variant.error_bound import ErrorEstimate


def lineage(desk: Desk, request: Request) -> str:
    """Return the page of all commits."""
    now, top = desk.now(), f"{request.scope['root_path']}/"

    def make(progress: Progress) -> str:
        values = lineage_values(now.entries(progress), now.url)
        return page("lineage.html.j2", top, state=now.state, view="", script="lineage.js", **values | {"linked": True})

    return desk.reading.ask((now.state, "lineage"), make)


class Link(NamedTuple):
    """A commit that another page shows."""

    oid: str
    name: str
    edge: str


def commit(desk: Desk, request: Request) -> str:
    """Return the page of one commit."""
    now, top = desk.now(), f"{request.scope['root_path']}/"
    oid = request.path_params["oid"]
    if not re.fullmatch("[0-9a-f]{64}", oid):
        raise NotFoundError(f"There is no commit '{oid[:80]}'.", hint="Go to the lineage.")
    entries = desk.reading.ask((now.state, "log"), now.entries)
    record = next((entry for entry in entries if entry.commit == oid), None)
    # To bound the error of a merge takes longer than all else, and the log has done so; where it could not, this says why.
    estimate = record and ErrorEstimate(record.relative_error, record.error_bound)
    shown = show(now, oid, error=estimate if estimate and any(value is not None for value in estimate) else None)
    return page("commit.html.j2", top, state=now.state, script="commit.js", **_values(now, shown, entries))


def _values(now: Snapshot, shown: ShowResult, entries: Sequence[LogEntry]) -> dict[str, Any]:
    by_oid = {entry.commit: entry for entry in entries}
    named = {name: entry.commit for entry in entries for name in entry.refs}
    record = by_oid.get(shown.commit)
    name = name_of(record) if record else shown.commit[:12]
    total = sum(tensor.squared_error for tensor in shown.tensors)
    return {
        "title": name,
        "store": now.url,
        "name": name,
        "shown": shown,
        "branches": [item for item in shown.refs if item not in shown.tags],
        "facts": list(_facts(shown)),
        "parents": [_link(oid, by_oid) for oid in shown.parents],
        "children": [_link(entry.commit, by_oid) for entry in entries if shown.commit in entry.parents],
        "base": Link(named[shown.base], shown.base, "") if shown.base in named else None,
        "terms": [(term, size_text(term.bytes)) for term in shown.terms],
        "sections": [(kind, item.tensors, size_text(item.bytes)) for kind, item in shown.sections.items()],
        "patch": None if shown.patch_bytes is None else size_text(shown.patch_bytes),
        "operands": list(_operands(shown.recipe)),
        "recipe": _recipe(shown.recipe),
        "rows": [
            (
                tensor,
                Cell(size_text(tensor.bytes) if tensor.bytes else "-", str(tensor.bytes)),
                _number(tensor.linear_error),
                _number(tensor.relative_error),
                Cell(percent(tensor.squared_error / total) if total else "-", repr(tensor.squared_error)),
            )
            for tensor in shown.tensors
        ],
    }


def _link(oid: str, by_oid: Mapping[str, LogEntry]) -> Link:
    entry = by_oid.get(oid)
    return Link(oid, name_of(entry), entry.edge) if entry else Link(oid, oid[:12], "")


def _number(value: float | None) -> Cell:
    return Cell("-", "-1") if value is None else Cell(f"{value:.2g}", repr(value))


def _facts(shown: ShowResult) -> Iterator[tuple[str, str]]:
    yield "Author", shown.author
    yield "Date", f"{shown.time:%Y-%m-%d %H:%M:%S} UTC"
    yield "Stored", share_text(shown.stored_bytes, shown.original_bytes)
    if shown.edge != "imported":
        error = error_text(shown.relative_error, exact=shown.exact, bound=shown.error_bound, lossy=shown.lossy_error)
        yield "Quality", error
    if shown.calibrated_with is not None:
        yield "Calibrated with", plural(shown.calibrated_with, "example")
    yield "Files", f"{plural(shown.files, 'weight file')} ({shown.format})"
    if shown.side_files:
        yield "Side files", ", ".join(shown.side_files)
    yield "Tensors", f"{len(shown.tensors):,}"


def _operands(recipe: Any) -> Iterator[tuple[str, str, str]]:
    """Yield names, commits and weights of what was merged."""
    operands = recipe.get("operands") if isinstance(recipe, dict) else None
    for operand in operands if isinstance(operands, list) else ():
        if isinstance(operand, dict):
            yield str(operand.get("name", "")), str(operand.get("commit", "")), str(operand.get("weight", ""))


def _recipe(recipe: Any) -> list[tuple[str, str]]:
    """Return the rest of how a merge was made."""
    if not isinstance(recipe, dict):
        return []
    return [(key, _words(value)) for key, value in sorted(recipe.items()) if key != "operands" and value]


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value, indent=None)
