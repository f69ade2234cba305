"""Commands that look after a store: status."""

from __future__ import annotations

import click

from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import date_text, json_text, plural, printable, short, size_text, table


@verb("status", example="erestore status")
@json_option
@click.pass_obj
def status(session: Session, as_json: bool) -> None:
    """Show what the store holds: bases, variants, size, and what happened last."""
    with session.open() as store:
        found = store.status()
    if as_json:
        click.echo(json_text(found))
        return
    rows = [
        ["store", found.store],
        [
            "holds",
            f"{plural(found.bases, 'base')}, {plural(found.variants, 'variant')}, {plural(found.tags, 'tag')}, "
            f"{plural(found.commits, 'commit')}",
        ],
        ["size", f"{size_text(found.stored_bytes)} in {plural(found.objects, 'object')}"],
    ]
    if found.last:
        rows.append(
            [
                "last",
                f"{found.last.ref}: {printable(found.last.message)}, {date_text(found.last.time)} "
                f"(operation {short(found.last.operation)})",
            ]
        )
    if found.running:
        rows.append(["running", f"{plural(found.running, 'operation')} writing now, or killed less than an hour ago"])
    click.echo(table(rows))
    if found.unreachable_objects:
        session.notice(
            f"{size_text(found.unreachable_bytes)} in {plural(found.unreachable_objects, 'object')} that nothing leads to; "
            "`erestore gc` frees them."
        )
