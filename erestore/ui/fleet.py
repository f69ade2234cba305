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

CONFIRM_ABOVE = 2000
"""Inner products from which on somebody has to ask for them: below, they take seconds."""
_NEAREST = 20


def similarity(desk: Desk, request: Request) -> str:
    """Return the page of how alike variants are: those that are named, else all on one base."""
    now, top = desk.now(), f"{request.scope['root_path']}/"
    revisions = tuple(dict.fromkeys(request.query_params.getlist("rev")))
    base, is_asked = request.query_params.get("base"), request.query_params.get("compute") == "yes"

    def make(progress: Progress) -> str:
        bases = _bases(now, progress)
        name = None if revisions else base or (bases[0].name if bases else None)
        options: dict[str, Any] = {"base": name, "products_directory": desk.products_directory}
        shared: dict[str, Any] = {
            "title": "Similarity",
            "store": now.url,
            "bases": bases,
            "base": name,
            "revisions": revisions,
        }
        missing = 0 if is_asked else uncached_pairs(now, revisions, **options)
        if missing > CONFIRM_ABOVE:
            return page("similarity_asked.html.j2", top, state=now.state, view="similarity", pairs=missing, **shared)
        result = similar(now, revisions, progress=progress, **options)
        return page(
            "similarity.html.j2",
            top,
            state=now.state,
            view="similarity",
            script="similarity.js",
            **shared | _similarity(now, result),
        )

    return desk.computing.ask((now.state, "similarity", revisions, base, is_asked), make)


class BaseCount(NamedTuple):
    """A base by name, and how many branches are on it."""

    name: str
    variants: int


def _bases(now: Snapshot, progress: Progress) -> list[BaseCount]:
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
    bases = [BaseCount(name, counts[oid]) for oid, name in named.items() if counts[oid]]
    return sorted(bases, key=lambda base: (-base.variants, base.name))


def _similarity(now: Snapshot, result: SimilarResult) -> dict[str, Any]:
    commits = {name: entry.oid for name, entry in now.refs.all().items()}
    order = clustered(result.matrix)
    return {
        "title": "Similarity",
        "found": result,
        "base": result.base,
        "summary": f"{plural(len(result.names), 'variant')} of {result.base}, by what they changed of it.",
        "chart": Chart("map", similarity_figure(result, order)),
        "commits": commits,
        "whole": listed(list(result.whole), 8),
        "nearest": list(itertools.islice(_nearest(result), _NEAREST)),
        "data": {
            "names": result.names,
            "base": result.base,
            "order": order,
            "norms": result.norms,
            "duplicates": result.duplicates,
            "outliers": result.outliers,
            "whole": result.whole,
        },
    }


def _nearest(result: SimilarResult) -> Iterator[tuple[Cell, str, str]]:
    """Yield pairs, the most similar first."""
    pairs = (
        (cosine, result.names[one], result.names[two])
        for one, row in enumerate(result.matrix)
        for two, cosine in enumerate(row[:one])
        if cosine is not None
    )
    for cosine, one, two in sorted(pairs, key=lambda pair: -pair[0]):
        yield Cell(f"{cosine:.3f}", repr(cosine)), two, one


def storage(desk: Desk, request: Request) -> str:
    """Return the page of what variants take."""
    now, top = desk.now(), f"{request.scope['root_path']}/"
    result = _usage(desk, now)
    return desk.reading.ask((now.state, "storage"), lambda _: _storage(now, top, result))


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


def _storage(now: Snapshot, top: str, result: DuResult) -> str:
    if not result.variants:
        raise NotFoundError("There is nothing in the store yet.", hint="`erestore commit` stores a checkpoint.")
    rows = [(usage, *_sizes(usage)) for usage in result.variants]
    return page(
        "storage.html.j2",
        top,
        state=now.state,
        view="storage",
        script="storage.js",
        title="Storage",
        store=now.url,
        summary=_total(result),
        totals=Chart("totals", totals_figure(result)),
        chart=Chart("usage", usage_figure(result.variants)),
        rows=rows,
        kinds=sorted({usage.kind for usage in result.variants}),
        data=result,
    )


def _sizes(usage: Usage) -> Sequence[Cell]:
    sizes = (usage.own_bytes, usage.shared_bytes, usage.own_bytes + usage.shared_bytes, usage.original_bytes)
    return [Cell(size_text(size), str(size)) for size in sizes]


def _total(result: DuResult) -> str:
    text = f"The store takes {size_text(result.stored_bytes)}"
    if result.other_bytes:
        text += f", {size_text(result.other_bytes)} of it unreachable"
    times = f", {result.saved_ratio:.1f} times as much" if result.saved_ratio and result.saved_ratio >= 1 else ""
    return f"{text}; separate checkpoints would take {size_text(result.separate_bytes)}{times}."
