"""Commands that look back: log, show."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from erestore.cli.pages import require_page, write_page
from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, cache_directory, json_option, print_long, verb
from erestore.cli.text import (
    coefficient_text,
    date_text,
    error_text,
    listed,
    plural,
    printable,
    share_text,
    short,
    size_text,
    table,
)
from erestore.report.json_values import json_text

if TYPE_CHECKING:
    from erestore.analysis.similarity.ancestors import AncestorOverlap
    from erestore.ops.log import LogEntry
    from erestore.ops.show import ShowResult

_C = TypeVar("_C", bound=Callable[..., Any])

TOP = 10
"""Tensors that ``show`` lists."""
PARENTS = 5
"""Parents of a merge that are named, and drawn with lines to them."""


def overlap_option(function: _C) -> _C:
    """Give a command --overlap."""
    text = "Also show how much of a commit's change overlaps its ancestors' changes."
    return click.option("--overlap", is_flag=True, help=text)(function)


@verb(
    "log",
    "Show commits, newest first.",
    example="erestore log\nerestore log task-mnli -n 5\nerestore log --graph --oneline\nerestore log task-mnli --overlap\n"
    "erestore log --html lineage.html",
)
@click.argument("revisions", nargs=-1)
@click.option("-n", "--limit", type=click.IntRange(min=0), metavar="COUNT", help="Show at most COUNT commits.")
@click.option("--graph", is_flag=True, help="Draw the lineage beside the commits.")
@click.option("--oneline", is_flag=True, help="One line per commit.")
@click.option("--html", metavar="FILE", help="Write the lineage as a self-contained HTML page to FILE instead.")
@click.option("-f", "--force", is_flag=True, help="Replace FILE if it exists.")
@overlap_option
@json_option
@click.pass_obj
def log(
    session: Session,
    *,
    revisions: tuple[str, ...],
    limit: int | None,
    graph: bool,
    oneline: bool,
    html: str | None,
    force: bool,
    overlap: bool,
    as_json: bool,
) -> None:
    """Show commits, newest first: those reachable from REVISIONS, by default all."""
    if html is not None:
        require_page(Path(html), force=force)
    with session.open() as store, progress_bar(session) as progress:
        entries = store.log(
            revisions,
            limit=limit,
            topological=graph,
            overlap=overlap,
            products_directory=cache_directory("products") if overlap else None,
            progress=progress,
        )
        url = store.url
    if html is not None:
        from erestore.report.lineage_page import lineage_page

        write_page(lineage_page(entries, url), Path(html), force=force)
        session.say(f"Wrote {printable(html)}.")
    if as_json:
        click.echo(json_text(entries))
        return
    if html is not None:
        return
    if not entries:
        if limit != 0:
            session.say("There are no commits yet.")
        return
    names = {entry.commit: entry.refs[0] for entry in entries if entry.refs}
    texts = [list(_one_line(entry) if oneline else _paragraph(entry, names)) for entry in entries]
    if graph:
        from erestore.cli.lineage_graph import draw

        lines: Iterable[str] = draw(
            (entry.commit, entry.parents[:PARENTS], [*text, *_not_drawn(entry)])
            for entry, text in zip(entries, texts, strict=True)
        )
    else:
        lines = (line for text in texts for line in text)
    print_long("\n".join(lines).rstrip())


def _not_drawn(entry: LogEntry) -> Iterator[str]:
    if (more := len(entry.parents) - PARENTS) > 0:
        yield f"({more} more parents, without lines to them)"


def _refs(entry: LogEntry | ShowResult) -> str:
    if not entry.refs:
        return ""
    names = [
        click.style(f"tag: {name}", fg="yellow", bold=True)
        if name in entry.tags
        else click.style(name, fg="green", bold=True)
        for name in entry.refs
    ]
    return f" ({', '.join(names)})"


def _one_line(entry: LogEntry) -> Iterator[str]:
    subject = printable(entry.message.partition("\n")[0])
    error = error_text(entry.relative_error, exact=entry.exact, bound=entry.error_bound)
    facts = f"{entry.edge}, {size_text(entry.stored_bytes)}" + ("" if entry.edge == "imported" else f", {error}")
    most = max(entry.overlaps or (), key=lambda overlap: overlap.share, default=None)
    facts += "" if most is None else f", over {100 * most.share:.1f} % of {short(most.commit)}"
    yield f"{click.style(short(entry.commit), fg='yellow')}{_refs(entry)} {facts}{f': {subject}' if subject else ''}"


def _paragraph(entry: LogEntry, names: dict[str, str]) -> Iterator[str]:
    yield f"{click.style(f'commit {short(entry.commit)}', fg='yellow')}{_refs(entry)}"
    yield f"Edge:   {_edge(entry.edge, entry.parents, names)}"
    yield f"Author: {printable(entry.author)}"
    yield f"Date:   {date_text(entry.time)}"
    yield f"Size:   {_size(entry)}"
    for overlap in entry.overlaps or ():
        yield f"Over:   {_overlap(overlap, names)}"
    yield ""
    if entry.message:
        yield from textwrap.indent(printable(entry.message).rstrip(), "    ").splitlines()
        yield ""


def _overlap(overlap: AncestorOverlap, names: Mapping[str, str]) -> str:
    """Say how a commit lies to an ancestor."""
    name = names.get(overlap.commit)
    cosine = "" if overlap.cosine is None else f", cosine {overlap.cosine:.3f}"
    return f"{100 * overlap.share:.1f} % in {f'{name} ' if name else ''}({short(overlap.commit)}){cosine}"


def _edge(edge: str, parents: tuple[str, ...], names: dict[str, str]) -> str:
    if not parents:
        return edge
    shown = [f"{names[oid]} ({short(oid)})" if oid in names else short(oid) for oid in parents]
    return f"{edge} from {listed(shown, PARENTS)}"


def _size(entry: LogEntry | ShowResult) -> str:
    size = share_text(entry.stored_bytes, entry.original_bytes)
    if entry.edge == "imported":
        return size
    error = error_text(entry.relative_error, exact=entry.exact, bound=entry.error_bound, lossy=entry.lossy_error)
    return f"{size}; {error}"


@verb("show", "Show one commit in full.", example="erestore show task-mnli\nerestore show task-mnli --overlap")
@click.argument("revision")
@click.option("--all", "every", is_flag=True, help="List every tensor, not only those with the largest errors.")
@overlap_option
@json_option
@click.pass_obj
def show(session: Session, *, revision: str, every: bool, overlap: bool, as_json: bool) -> None:
    """Show one commit in full: lineage, quality, composition, and where its error is."""
    with session.open() as store, progress_bar(session) as progress:
        directory = cache_directory("products") if overlap else None
        shown = store.show(revision, overlap=overlap, products_directory=directory, progress=progress)
    click.echo(json_text(shown)) if as_json else print_long("\n".join(_lines(shown, every=every)))


def _lines(shown: ShowResult, *, every: bool) -> Iterator[str]:
    yield f"{click.style(f'commit {shown.commit}', fg='yellow')}{_refs(shown)}"
    yield f"Edge:     {_edge(shown.edge, shown.parents, {})}"
    yield f"Author:   {printable(shown.author)}"
    yield f"Date:     {date_text(shown.time)}"
    yield f"Size:     {_size(shown)}"
    if shown.edge != "imported":
        yield f"Base:     {shown.base}"
        yield f"Quality:  {_quality(shown.quality)}"
    if shown.whole_tensors and shown.edge != "imported":
        yield f"Whole:    {printable(listed(shown.whole_tensors))}"
    if shown.dropped:
        yield f"Dropped:  {plural(shown.dropped, 'tensor')} changed by too little to keep any of it"
    if shown.calibrated_with is not None:
        yield f"Inputs:   calibrated with {plural(shown.calibrated_with, 'example')}"
    files = f"{plural(shown.files, 'weight file')} ({shown.format})"
    yield f"Files:    {files}, {plural(len(shown.side_files), 'side file')}"
    if over := shown.quality.get("trained_over"):
        yield f"Adapter:  trained over quantised weights ({printable(over)}); the residual is over those of {shown.base}"
    for form, count in shown.quantised.items():
        yield f"Codes:    {plural(count, 'weight')} in {form}"
    yield from _recipe(shown.recipe)
    if shown.metrics:
        yield f"Metrics:  {', '.join(f'{printable(k)} {printable(v)}' for k, v in sorted(shown.metrics.items()))}"
    if shown.message:
        yield ""
        yield textwrap.indent(printable(shown.message).rstrip(), "    ")
    yield from _parts(shown)
    for overlap in shown.overlaps or ():
        yield from _overlap_table(overlap, every=every)
    if every or any(tensor.squared_norm for tensor in shown.tensors):
        yield from _error_table(shown, every=every)


def _recipe(recipe: Any) -> Iterator[str]:
    """Yield how a merge was made: its operands with their weights, and what a greedy soup tried."""
    if not isinstance(recipe, dict) or not isinstance(recipe.get("operands"), list):
        return
    options = {**recipe.get("options", {})}
    details = "".join(f", {key} {value}" for key, value in sorted(options.items()))
    yield f"Merge:    {printable(str(recipe.get('strategy')))}{printable(details)}"
    operands = [
        f"{coefficient_text(str(operand['weight']))} {printable(str(operand['name']))}"
        for operand in recipe["operands"]
    ]
    yield f"Operands: {listed(operands, 8)}"
    for run in recipe.get("tried", ()):
        names = printable(listed(map(str, run["operands"]), 8))
        yield f"Tried:    {names}: {printable(str(run['score']))}{'' if run['kept'] else ', not kept'}"


def _quality(quality: Mapping[str, str]) -> str:
    """Return what was asked for, and how far the variant is from its parent."""
    codec = quality.get("codec", "no residual of its own")
    facts = [
        f"{words} {quality[key]}"
        for key, words in (("max_error", "at most"), ("rank", "rank"), ("bits", "bits"), ("allocation", "allocation"))
        if key in quality
    ]
    if "gate" in quality:
        facts.append(f"what passes `{printable(quality['gate'])}` (runs: {quality.get('gate_runs', '?')})")
    if "objective" in quality:
        facts.append(quality["objective"])
    if quality.get("exact") == "yes":
        facts.append("exact")
    if "relative_norm" in quality:
        facts.append(f"the residual is {float(quality['relative_norm']):.2g} times as large as its parent")
    return ", ".join([codec, *facts])


def _parts(shown: ShowResult) -> Iterator[str]:
    if shown.terms:
        yield ""
        yield f"Value = {shown.base} + the sum of"
        rows = [
            [
                f"  {coefficient_text(term.coefficient)} ×",
                short(term.residual),
                size_text(term.bytes),
                "own" if term.own else "inherited",
            ]
            for term in shown.terms
        ]
        yield table(rows, right=(0, 2))
    rows = [
        [f"  {kind}", plural(part.tensors, "tensor"), size_text(part.bytes)] for kind, part in shown.sections.items()
    ]
    if shown.whole:
        rows.append(["  whole", plural(shown.whole, "tensor"), ""])
    if shown.added_rows:
        rows.append(["  added rows", plural(shown.added_rows, "tensor"), ""])
    if shown.patch_bytes is not None:
        rows.append(["  exact remainder", "", size_text(shown.patch_bytes)])
    if rows:
        yield ""
        yield "Stored as"
        yield table(rows, right=(1, 2))


def _overlap_table(overlap: AncestorOverlap, *, every: bool) -> Iterator[str]:
    yield ""
    yield f"Overlap with an ancestor: {_overlap(overlap, {})}"
    tensors = sorted(
        (tensor for tensor in overlap.tensors if tensor.a_in_b is not None),
        key=lambda tensor: -(tensor.a_in_b or 0.0) * tensor.norm_a**2,
    )
    rows = [
        [
            f"  {printable(tensor.name)}",
            f"{100 * (tensor.a_in_b or 0.0):.1f} %",
            "-" if tensor.cosine is None else f"{tensor.cosine:.3f}",
        ]
        for tensor in (tensors if every else tensors[:TOP])
    ]
    yield table(rows, right=(1, 2), header=["  tensor", "inside", "cosine"])


def _error_table(shown: ShowResult, *, every: bool) -> Iterator[str]:
    touched = [tensor for tensor in shown.tensors if tensor.squared_norm]
    tensors = shown.tensors if every else touched[:TOP]
    total = sum(tensor.squared_error for tensor in shown.tensors)
    rows = [
        [
            f"  {printable(tensor.name)}",
            "×".join(map(str, tensor.shape)),
            " + ".join(tensor.sections) or "as before",
            size_text(tensor.bytes) if tensor.bytes else "-",
            *("-" if error is None else f"{error:.2g}" for error in (tensor.linear_error, tensor.relative_error)),
            f"{100 * tensor.squared_error / total:.1f} %" if total else "-",
        ]
        for tensor in tensors
    ]
    yield ""
    yield "Tensors by what was lost" + (f" (the first {TOP} of {len(touched)})" if len(tensors) < len(touched) else "")
    header = ["  tensor", "shape", "sections", "size", "linear error", "rounded", "of all"]
    yield table(rows, right=(3, 4, 5, 6), header=header)
