"""The command that removes leases: unlock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import minute_text, plural, printable
from erestore.report.json_values import json_text

if TYPE_CHECKING:
    from erestore.ops.unlock import HeldLease, UnlockResult


@verb(
    "unlock",
    "Remove the leases of killed operations.",
    example="erestore unlock --dry-run\nerestore unlock\nerestore unlock --all",
)
@click.option("-n", "--dry-run", is_flag=True, help="List leases, and remove none.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also remove leases whose holders may be at work, on other machines for example. Their operations stop.",
)
@json_option
@click.pass_obj
def unlock(session: Session, *, dry_run: bool, everything: bool, as_json: bool) -> None:
    """Remove the leases of operations that were killed.

    Writers and garbage collection exclude each other by leases. A killed operation leaves its lease behind, which stays valid
    for an hour. This removes leases that are known to be dead: expired, ended, from the future, copied with the store, or
    held by a process of this machine that has ended.
    """
    with session.open() as store:
        result = store.unlock(everything=everything, dry_run=dry_run)
    if as_json:
        click.echo(json_text(result))
        return
    for line in _lines(result):
        session.result(line)
    if result.kept:
        session.notice(
            f"{plural(len(result.kept), 'operation')} may be running. If you know that none is: `erestore unlock --all`."
        )


def _lines(result: UnlockResult) -> Iterator[str]:
    for lease in result.removed:
        yield f"{'Would remove' if result.dry_run else 'Removed'} {_lease(lease)}."
    for lease in result.kept:
        yield f"Kept {_lease(lease)}."
    if not result.removed and not result.kept:
        yield "No operation holds a lease."


def _lease(lease: HeldLease) -> str:
    who = "garbage collection" if lease.kind == "collector" else "a writer"
    details = [printable(lease.holder), f"renewed {minute_text(lease.renewed)}", lease.reason]
    return f"the lease of {who} ({', '.join(filter(None, details))})"
