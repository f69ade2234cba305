"""Commands that compare two revisions: diff and its page."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

import click

from erestore.cli.pages import require_page, write_page
from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, cache_directory, is_colored, json_option, print_long, terminal_width, verb
from erestore.errors import UsageError
from erestore.report.json_values import json_text
from erestore.report.words import printable

if TYPE_CHECKING:
    from erestore.results.diff import DiffResult

DIFFERENT = 1
"""Exit code of ``diff --exit-code`` where there are differences."""


@verb(
    "diff",
    "Show how far two variants are apart, and in how many ranks.",
    example="erestore diff base task-mnli\n"
    "erestore diff task-mnli\n"
    "erestore diff task-mnli ./new-checkpoint --tensors '*attention*'\n"
    'erestore diff --stat task-mnli "0.5*task-a + 0.5*task-b"\n'
    "erestore diff base task-mnli --tensor encoder.layer.3.output.dense.weight",
)
@click.argument("before", metavar="REVISION")
@click.argument("after", metavar="[REVISION|PATH]", required=False)
@click.option("--tensors", metavar="PATTERN", help="Compare only tensors whose names match, as '*attention*' does.")
@click.option(
    "--sort",
    type=click.Choice(["share", "norm", "erank", "energy", "name"]),
    default="share",
    help="Order: share of the whole change, relative norm, effective rank, energy in a tenth of the ranks, or name. "
    "Default: share.",
)
@click.option("-n", "--limit", type=click.IntRange(min=0), metavar="COUNT", help="List COUNT tensors. Default: 20.")
@click.option("--all", "every", is_flag=True, help="List all tensors that changed.")
@click.option("--stat", is_flag=True, help="List kinds of modules instead of tensors.")
@click.option(
    "--tensor", "name", metavar="NAME", help="Look at one tensor: its spectrum as a plot, rows, how it is stored."
)
@click.option(
    "--html", metavar="FILE", help="Write a self-contained HTML page of curves, maps and tables to FILE instead."
)
@click.option("-f", "--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if anything differs.")
@json_option
@click.pass_context
def diff(
    ctx: click.Context,
    *,
    before: str,
    after: str | None,
    tensors: str | None,
    sort: str,
    limit: int | None,
    every: bool,
    stat: bool,
    name: str | None,
    html: str | None,
    force: bool,
    exit_code: bool,
    as_json: bool,
) -> None:
    """Compare two revisions tensor by tensor, or a revision with a checkpoint outside the store.

    With one REVISION, it is compared with its parent. The summary says how much changed, in which tensors, and how few
    ranks hold it.
    """
    from erestore.report.one_tensor import tensor_text
    from erestore.report.text import diff_text

    session: Session = ctx.obj
    if name is not None and (tensors is not None or stat or every or limit is not None):
        raise UsageError("--tensor looks at one tensor.", hint="Leave out --tensors, --stat, --all and --limit.")
    if force and html is None:
        raise UsageError("--force is for a page.", hint="Add --html FILE.")
    if html is not None:
        if name is not None or stat or every or limit is not None:
            raise UsageError("A page has all tensors.", hint="Leave out --tensor, --stat, --all and --limit.")
        require_page(Path(html), force=force)
    with session.open() as store, progress_bar(session) as progress:
        result = store.diff(
            before,
            after,
            tensors=tensors if name is None else glob.escape(name),
            sort=sort,
            details=name is not None or html is not None,
            spectra_directory=cache_directory("spectra"),
            progress=progress,
        )
    if html is not None:
        _write(session, result, Path(html), force=force)
    if as_json:
        click.echo(json_text(result))
    elif html is not None:
        pass
    elif name is not None:
        print_long(tensor_text(result, width=terminal_width(), color=is_colored()))
    else:
        listed = None if every else 20 if limit is None else limit
        order = sort if stat else None
        print_long(diff_text(result, width=terminal_width(), limit=listed, color=is_colored(), by_kinds=order))
    if exit_code and not result.summary.identical:
        ctx.exit(DIFFERENT)


@verb(
    "report",
    "Write a page about how far two variants are apart.",
    example="erestore report task-mnli\n"
    "erestore report base task-mnli -o mnli.html\n"
    "erestore report task-mnli ./new-checkpoint",
)
@click.argument("before", metavar="REVISION")
@click.argument("after", metavar="[REVISION|PATH]", required=False)
@click.option("--tensors", metavar="PATTERN", help="Compare only tensors whose names match, as '*attention*' does.")
@click.option("-o", "--output", "target", metavar="FILE", default="report.html", help="Default: report.html.")
@click.option("-f", "--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_obj
def report(session: Session, *, before: str, after: str | None, tensors: str | None, target: str, force: bool) -> None:
    """Write the page of `diff --html`: a self-contained file with curves, maps and tables.

    With one REVISION, it is compared with its parent.
    """
    require_page(Path(target), force=force)
    with session.open() as store, progress_bar(session) as progress:
        directory = cache_directory("spectra")
        result = store.diff(
            before, after, tensors=tensors, details=True, spectra_directory=directory, progress=progress
        )
    _write(session, result, Path(target), force=force)


def _write(session: Session, result: DiffResult, target: Path, *, force: bool) -> None:
    from erestore.report.pages import diff_page

    write_page(diff_page(result), target, force=force)
    session.say(f"Wrote {printable(str(target))}.")
