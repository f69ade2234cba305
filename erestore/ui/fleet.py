"""Views of all variants: how alike they are, and what they take."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request

from erestore.errors import NotFoundError
from erestore.ops.du import DuResult, Usage, du
from erestore.ops.similar import SimilarResult, similar, uncached_pairs
from erestore.progress import Progress
from erestore.report.figures.fleet import similarity_figure, totals_figure, usage_figure
from erestore.report.lineage import lay_out
from erestore.report.lineage_page import Cell
from erestore.report.pages import Chart
from erestore.report.seriation import clustered
from erestore.report.words import listed, plural, size_text
from erestore.ui.desk import Desk
from erestore.ui.pages import page
from erestore.ui.snapshots import Snapshot

ASKED = 2000
"""Inner products from which on somebody has to ask for them: below, they take seconds."""
_NEAREST = 20


def similarity(desk: Desk, request: Request) -> str:
    """Return the page of how alike variants are: those that are named, else all on one base."""
    now, top = desk.now(), f"{request.scope['root_path']}/"
    revisions = tuple(dict.fromkeys(request.query_params.getlist("rev")))
    base, is_asked = request.query_params.get("base"), request.query_params.get("compute") == "yes"

    def make(progress: Progress) -> str:
        bases = _bases(now, progress)
        chosen = None if revisions else base or (bases[0].name if bases else None)
        asked: dict[str, Any] = {"base": chosen, "products_directory": desk.products_directory}
        shared: dict[str, Any] = {
            "title": "Similarity",
            "store": now.url,
            "bases": bases,
            "base": chosen,
            "revisions": revisions,
        }
        missing = 0 if is_asked else uncached_pairs(now, revisions, **asked)
        if missing > ASKED:
            return page("similarity_asked.html.j2", top, state=now.state, view="similarity", pairs=missing, **shared)
        found = similar(now, revisions, progress=progress, **asked)
        return page(
            "similarity.html.j2",
            top,
            state=now.state,
            view="similarity",
            script="similarity.js",
            **shared | _similarity(now, found),
        )

    return desk.computing.ask((now.state, "similarity", revisions, base, is_asked), make)


class Base(NamedTuple):
    """A base by name, and how many branches are on it."""

    name: str
    variants: int


def _bases(now: Snapshot, progress: Progress) -> list[Base]:
    """Return the bases that have a name, those with most branches first."""
    entries = now.entries(progress)
    places = lay_out(entries)
    counts = Counter(
        places[entry.commit].root
        for entry in entries
        for name in entry.refs
        if name not in entry.tags and entry.parents
    )
    named = {oid: name for name, oid in sorted(now.base_commits().items(), reverse=True)}
    found = [Base(name, counts[oid]) for oid, name in named.items() if counts[oid]]
    return sorted(found, key=lambda each: (-each.variants, each.name))


def _similarity(now: Snapshot, found: SimilarResult) -> dict[str, Any]:
    commits = {name: entry.oid for name, entry in now.refs.all().items()}
    order = clustered(found.matrix)
    return {
        "title": "Similarity",
        "found": found,
        "base": found.base,
        "summary": f"{plural(len(found.names), 'variant')} of {found.base}, by what they changed of it.",
        "chart": Chart("map", similarity_figure(found, order)),
        "commits": commits,
        "whole": listed(list(found.whole), 8),
        "nearest": list(itertools.islice(_nearest(found), _NEAREST)),
        "data": {
            "names": found.names,
            "base": found.base,
            "order": order,
            "norms": found.norms,
            "duplicates": found.duplicates,
            "outliers": found.outliers,
            "whole": found.whole,
        },
    }


def _nearest(found: SimilarResult) -> Iterator[tuple[Cell, str, str]]:
    """Yield pairs, the most similar first."""
    pairs = (
        (cosine, found.names[one], found.names[two])
        for one, row in enumerate(found.matrix)
        for two, cosine in enumerate(row[:one])
        if cosine is not None
    )
    for cosine, one, two in sorted(pairs, key=lambda pair: -pair[0]):
        yield Cell(f"{cosine:.3f}", repr(cosine)), two, one


def storage(desk: Desk, request: Request) -> str:
    """Return the page of what variants take."""
    now, top = desk.now(), f"{request.scope['root_path']}/"
    found = _usage(desk, now)
    return desk.reading.ask((now.state, "storage"), lambda _: _storage(now, top, found))


def usages(desk: Desk, oid: str) -> tuple[Usage, ...]:
    """Return what the names of a commit take.

    Raises
    ------
    UnfinishedError
        While it is counted.
    """
    return tuple(usage for usage in _usage(desk, desk.now()).variants if usage.commit == oid)


def _usage(desk: Desk, now: Snapshot) -> DuResult:
    return desk.reading.ask((now.state, "du"), lambda progress: du(now, progress=progress))


def _storage(now: Snapshot, top: str, found: DuResult) -> str:
    if not found.variants:
        raise NotFoundError("There is nothing in the store yet.", hint="`erestore commit` stores a checkpoint.")
    rows = [(usage, *_sizes(usage)) for usage in found.variants]
    return page(
        "storage.html.j2",
        top,
        state=now.state,
        view="storage",
        script="storage.js",
        title="Storage",
        store=now.url,
        summary=_total(found),
        totals=Chart("totals", totals_figure(found)),
        chart=Chart("usage", usage_figure(found.variants)),
        rows=rows,
        kinds=sorted({usage.kind for usage in found.variants}),
        data=found,
    )


def _sizes(usage: Usage) -> Sequence[Cell]:
    sizes = (usage.own_bytes, usage.shared_bytes, usage.own_bytes + usage.shared_bytes, usage.original_bytes)
    return [Cell(size_text(size), str(size)) for size in sizes]


def _total(found: DuResult) -> str:
    text = f"The store takes {size_text(found.stored_bytes)}"
    if found.other_bytes:
        text += f", {size_text(found.other_bytes)} of it for what no name leads to any more"
    times = f", {found.saved_ratio:.1f} times as much" if found.saved_ratio and found.saved_ratio >= 1 else ""
    return f"{text}; separate checkpoints would take {size_text(found.separate_bytes)}{times}."
