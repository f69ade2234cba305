"""Commands about names: branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import error_text, json_text, listed, plural, printable, short, size_text, table
from erestore.errors import UsageError

if TYPE_CHECKING:
    from erestore.ops.branch import Branch


@verb(
    "branch",
    example="erestore branch\nerestore branch best task-mnli~1\nerestore branch -m best champion\nerestore branch -d old",
)
@click.argument("names", nargs=-1, metavar="[NAME [REVISION]]")
@click.option("-d", "--delete", is_flag=True, help="Delete the branches that follow.")
@click.option("-m", "--move", is_flag=True, help="Rename the first branch to the second name.")
@click.option("-f", "--force", is_flag=True, help="Move an existing branch to REVISION.")
@json_option
@click.pass_obj
def branch(session: Session, names: tuple[str, ...], delete: bool, move: bool, force: bool, as_json: bool) -> None:
    """List branches, or make, rename or delete one.

    Deleting takes the name away, not the data: `erestore undo` brings it back until garbage collection.
    """
    with session.open() as store:
        if delete and move:
            raise UsageError("--delete and --move exclude each other.")
        if delete:
            if not names:
                raise UsageError("Say which branch to delete.", hint="`erestore branch` lists them.")
            changes = store.delete_branches(names)
            if as_json:
                click.echo(json_text(changes))
            for change in changes:
                session.result(
                    f"Deleted {change.name} (was {short(change.before or '')}); `erestore undo` brings it back."
                )
                if change.variants:
                    session.notice(
                        f"{plural(len(change.variants), 'variant')} of it remain ({listed(change.variants)}): its tensors "
                        "stay in the store for them."
                    )
            return
        if move:
            if len(names) != 2:
                raise UsageError("Renaming takes two names.", hint="erestore branch -m OLD NEW")
            change = store.rename_branch(*names)
            text = f"Renamed {names[0]} to {change.name}."
        elif not names:
            _list(session, as_json, store.branches())
            return
        elif len(names) == 2:
            change = store.branch(*names, force=force)
            moved = f"moved from {short(change.before)}" if change.before else "made"
            text = f"{change.name} {moved}, now {short(change.after or '')}."
        else:
            raise UsageError("A branch is made from a name and a revision.", hint="erestore branch NAME REVISION")
    click.echo(json_text(change)) if as_json else session.result(text)


def _list(session: Session, as_json: bool, branches: tuple[Branch, ...]) -> None:
    if as_json:
        click.echo(json_text(branches))
        return
    if not branches:
        session.say("There are no branches yet.")
        return
    rows = [
        [
            click.style(branch.name, fg="green"),
            click.style(short(branch.commit), fg="yellow"),
            "base" if branch.edge == "imported" else f"on {branch.base}",
            size_text(branch.stored_bytes),
            "" if branch.edge == "imported" else error_text(branch.relative_error, exact=branch.exact),
            branch.time.astimezone().strftime("%Y-%m-%d %H:%M"),
            printable(branch.message.partition("\n")[0]),
        ]
        for branch in branches
    ]
    click.echo(table(rows, right=(3,)))
