"""The command that re-encodes variants: repack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, cache_directory, json_option, verb
from erestore.cli.text import plural, printable, size_text, table
from erestore.report.json_values import json_text

if TYPE_CHECKING:
    from erestore.ops.repack import Repacked, RepackResult


@verb(
    "repack",
    "Re-encode variants against cheaper parents.",
    example="erestore repack --dry-run\nerestore repack\nerestore repack task-a task-b --max-error 0.005",
)
@click.argument("branches", nargs=-1, metavar="[BRANCH]...")
@click.option(
    "--max-error",
    type=float,
    metavar="E",
    help="Maximum fraction of the squared norm of a variant's total change to its base to lose. "
    "Default: a quarter of what it had lost before.",
)
@click.option(
    "--max-total-rank",
    type=click.IntRange(min=0),
    metavar="R",
    help="Maximum total rank of a variant, which is what a checkout costs; 0 for no limit. "
    "Default: commit.flatten_rank, 512.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Repack in a temporary directory, and write nothing to the store.")
@json_option
@click.pass_obj
def repack(
    session: Session,
    *,
    branches: tuple[str, ...],
    max_error: float | None,
    max_total_rank: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Re-encode each BRANCH against the parent that makes the total smallest: the base, another variant, or a shared mean.

    By default all variants are considered. Those that shrink move to a copy of their newest commit; exact ones stay exact.
    The space they took is freed once their reflog entries expire.
    """
    with session.open() as store, progress_bar(session) as progress:
        done = store.repack(
            branches,
            max_error=max_error,
            max_total_rank=max_total_rank,
            dry_run=dry_run,
            products_directory=cache_directory("products"),
            progress=progress,
        )
    if as_json:
        click.echo(json_text(done))
        return
    for line in _report(done):
        session.result(line)
    for entry in done.kept:
        session.notice(f"{printable(entry.ref)} stays as it is: {entry.reason}.")


def _report(done: RepackResult) -> Iterator[str]:
    if not done.repacked:
        yield f"Nothing to repack: {size_text(done.bytes_before)} is reachable."
        return
    header = ["name", "added to", "before", "after", "lost now", "in all", "total rank"]
    yield table([list(_row(variant)) for variant in done.repacked], right=range(2, 7), header=header)
    for shared in done.means:
        yield f"The mean of {plural(len(shared.refs), 'variant')} takes {size_text(shared.bytes)}."
    verbs = ("Would repack", "would be") if done.dry_run else ("Repacked", "is")
    yield (
        f"{verbs[0]} {plural(len(done.repacked), 'variant')}: {size_text(done.bytes_after)} {verbs[1]} reachable instead of "
        f"{size_text(done.bytes_before)}, {size_text(done.added_bytes)} of it new."
    )
    freed = size_text(done.freed_bytes)
    if done.dry_run:
        yield f"`erestore gc` would free {freed} once reflogs have forgotten what it was."
        return
    yield (
        f"`erestore gc` frees {freed} once reflogs have forgotten what it was; `erestore undo` takes it back until then."
    )


def _row(variant: Repacked) -> Iterator[str]:
    yield click.style(printable(variant.ref), fg="green")
    yield printable(variant.parent)
    yield size_text(variant.bytes_before)
    yield size_text(variant.bytes_after)
    yield "exact" if variant.exact else f"{variant.repack_error:.2g}"
    yield "" if variant.exact or variant.error_bound is None else f"at most {variant.error_bound:.2g}"
    yield f"{variant.rank_before:.3g} → {variant.rank_after:.3g}"
