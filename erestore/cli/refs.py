"""Commands about names: branch, tag, reflog, undo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from erestore.cli.argument_order import hint_at_order
from erestore.cli.session import Session, json_option, print_long, verb
from erestore.cli.text import error_text, listed, minute_text, plural, printable, short, size_text, table
from erestore.errors import UsageError
from erestore.report.json_values import json_text

if TYPE_CHECKING:
    from erestore.ops.branch import Branch, BranchChange
    from erestore.ops.reflog import ReflogEntry
    from erestore.ops.tag import TagChange


@verb(
    "branch",
    "List, make, rename or delete branches.",
    example="erestore branch\n"
    "erestore branch best task-mnli~1\n"
    "erestore branch -m best champion\n"
    "erestore branch -d old\n"
    "erestore branch --where 'acc>=0.8' --sort=-metric:acc",
)
@click.argument("names", nargs=-1, metavar="[NAME REVISION]")
@click.option("-d", "--delete", is_flag=True, help="Delete the branches that follow.")
@click.option("-m", "--move", is_flag=True, help="Rename the first branch to the second name.")
@click.option("-f", "--force", is_flag=True, help="Move an existing branch to REVISION.")
@click.option(
    "--sort",
    metavar="KEY",
    help="List by name, time, size, error or a metric (or metric:NAME), smallest first; a - in front reverses. Branches "
    "without the value come last. Default: name.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="List those whose metric meets CONDITION: acc>=0.8, task=mnli, also > < <= and !=; may be repeated.",
)
@json_option
@click.pass_obj
def branch(
    session: Session,
    *,
    names: tuple[str, ...],
    delete: bool,
    move: bool,
    force: bool,
    sort: str | None,
    where: tuple[str, ...],
    as_json: bool,
) -> None:
    """List branches, or make, rename or delete one.

    Deletes the name, not the data: `erestore undo` brings it back until garbage collection. Branches that the setting
    branch.protected names get new versions, and are not deleted, renamed or rewound.
    """
    if delete and move:
        raise UsageError("--delete and --move exclude each other.")
    if names and (sort or where):
        raise UsageError("--sort and --where are for listing, and take no names.")
    with session.open() as store:
        if delete:
            changes = store.delete_branches(_require_names(names, "branch"))
            _report_deleted(session, changes, as_json=as_json)
            for change in changes:
                if change.variants and change.before:
                    oid = short(change.before)
                    session.notice(
                        f"{plural(len(change.variants), 'variant')} of {change.name} remain ({listed(change.variants)}): the "
                        f"base stays in the store for them as {oid}. `erestore branch {change.name} {oid}` names it again."
                    )
        elif move:
            if len(names) != 2:
                raise UsageError("Renaming takes two names.", hint="erestore branch -m OLD NEW")
            renamed = store.rename_branch(*names)
            click.echo(json_text(renamed)) if as_json else session.result(f"Renamed {names[0]} to {renamed.name}.")
        elif not names:
            branches = store.branches(sort=sort or "name", where=where)
            _list_branches(session, branches, metrics=_named_metrics(sort, where), as_json=as_json)
        elif len(names) == 2:
            with hint_at_order(store, f"branch {names[1]} {names[0]}", names[1], names[0], first="name"):
                result = store.branch(*names, force=force)
            text = f"Moved {result.name} from {short(result.before)} to" if result.before else f"Made {result.name} at"
            click.echo(json_text(result)) if as_json else session.result(f"{text} {short(result.after or '')}.")
        else:
            raise _wrong_count("branch", names)


def _wrong_count(kind: str, names: tuple[str, ...]) -> UsageError:
    if len(names) == 1:
        return UsageError(
            f"Missing REVISION: which commit is '{names[0]}' to name?",
            hint=f"`erestore {kind} {names[0]} REVISION`; `erestore log --oneline` lists commits.",
        )
    return UsageError(f"`erestore {kind}` takes one name and one revision.", hint=f"erestore {kind} NAME REVISION")


def _require_names(names: tuple[str, ...], kind: str) -> tuple[str, ...]:
    if not names:
        raise UsageError(f"Say which {kind} to delete.", hint=f"`erestore {kind}` lists them.")
    return names


def _report_deleted(session: Session, changes: Sequence[BranchChange | TagChange], *, as_json: bool) -> None:
    if as_json:
        click.echo(json_text(changes))
        return
    for change in changes:
        session.result(f"Deleted {change.name} (was {short(change.before or '')}); `erestore undo` brings it back.")


def _named_metrics(sort: str | None, where: Sequence[str]) -> list[str]:
    """Return the metrics named in options; each gets a column."""
    from erestore.history.branch_filter import parse_condition, sort_metric

    named = [parse_condition(text).metric for text in where]
    return list(dict.fromkeys([*filter(None, [sort_metric(sort or "")]), *named]))


def _list_branches(session: Session, branches: Sequence[Branch], *, metrics: Sequence[str], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(branches))
        return
    if not branches:
        session.say("No branch matches." if metrics else "There are no branches yet.")
        return
    click.echo(table([_row(branch, metrics) for branch in branches], right=(3,)))


def _row(branch: Branch, metrics: Sequence[str]) -> list[str]:
    is_base = branch.edge == "imported"
    error = error_text(branch.relative_error, exact=branch.exact, bound=branch.error_bound)
    return [
        click.style(branch.name, fg="green"),
        click.style(short(branch.commit), fg="yellow"),
        "base" if is_base else f"on {branch.base}",
        size_text(branch.stored_bytes),
        "" if is_base else error,
        *(printable(f"{name} {branch.metrics[name]}") if name in branch.metrics else "" for name in metrics),
        minute_text(branch.time),
        printable(branch.message.partition("\n")[0]),
    ]


@verb(
    "tag",
    "List, make or delete tags.",
    example='erestore tag\nerestore tag v1 task-mnli -m "as published"\nerestore tag -d v1',
)
@click.argument("names", nargs=-1, metavar="[NAME REVISION]")
@click.option("-d", "--delete", is_flag=True, help="Delete the tags that follow.")
@click.option("-m", "--message", default="", metavar="TEXT", help="What the tag means.")
@json_option
@click.pass_obj
def tag(session: Session, *, names: tuple[str, ...], delete: bool, message: str, as_json: bool) -> None:
    """List tags, or make or delete one.

    A tag is a name that never moves. To give its name to another commit, delete it first.
    """
    with session.open() as store:
        if delete:
            _report_deleted(session, store.delete_tags(_require_names(names, "tag")), as_json=as_json)
        elif not names:
            tags = store.tags()
            if as_json:
                click.echo(json_text(tags))
            elif not tags:
                session.say("There are no tags yet.")
            else:
                rows = [
                    [_styled_name(entry.name), _oid(entry.commit), minute_text(entry.time), printable(entry.message)]
                    for entry in tags
                ]
                click.echo(table(rows))
        elif len(names) == 2:
            with hint_at_order(store, f"tag {names[1]} {names[0]}", names[1], names[0], first="name"):
                result = store.tag(*names, message=message)
            click.echo(json_text(result)) if as_json else session.result(
                f"Tagged {short(result.after or '')} as {result.name}."
            )
        else:
            raise _wrong_count("tag", names)


@verb(
    "reflog",
    "Show where names pointed before.",
    example="erestore reflog\nerestore reflog task-mnli -n 5\nerestore checkout task-mnli@{1}",
)
@click.argument("name", required=False)
@click.option("-n", "--limit", type=click.IntRange(min=0), metavar="COUNT", help="Show at most COUNT moves.")
@json_option
@click.pass_obj
def reflog(session: Session, *, name: str | None, limit: int | None, as_json: bool) -> None:
    """Show where names pointed before, newest first, and the operation that moved each.

    Deleted names are included. `erestore undo OPERATION` takes any of these operations back.
    """
    with session.open() as store:
        entries = store.reflog(name, limit=limit)
    if as_json:
        click.echo(json_text(entries))
    elif not entries:
        session.say("There are no reflog entries yet.")
    else:
        print_long(
            table([_reflog_row(entry) for entry in entries], header=["operation", "time", "name", "move", "message"])
        )


def _reflog_row(entry: ReflogEntry) -> list[str]:
    move = f"{short(entry.previous) if entry.previous else 'none'} → {short(entry.commit) if entry.commit else 'none'}"
    time = minute_text(entry.time)
    return [_oid(entry.operation), time, _styled_name(entry.selector), move, printable(entry.message)]


@verb("undo", "Take back an operation.", example="erestore undo --dry-run\nerestore undo\nerestore undo 3f1c09aa21be")
@click.argument("operation", required=False)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be taken back, and change nothing.")
@json_option
@click.pass_obj
def undo(session: Session, *, operation: str | None, dry_run: bool, as_json: bool) -> None:
    """Take back the last operation, or OPERATION: every name it moved points again to where it pointed before.

    A command that failed is not an operation: the last one is the last that succeeded, whoever ran it. Another undo goes
    one operation further back. To redo, undo the undo by its id, which `erestore reflog` shows. Nothing is deleted:
    commits stay until garbage collection.
    """
    with session.open() as store:
        done = store.undo(operation, dry_run=dry_run)
    if as_json:
        click.echo(json_text(done))
        return
    if done.repeated:
        session.notice("A previous undo already did this, but its response was lost. Nothing was undone now.")
    author = f" by {printable(done.author)}" if done.author else ""
    verb_text = "Would undo" if dry_run else "Undid"
    session.result(
        f"{verb_text} operation {short(done.undone)} of {minute_text(done.time)}{author}: {printable(done.message)}"
    )
    for ref in done.refs:
        now = f"back at {short(ref.after)}" if ref.after else "gone"
        would = "would be " if dry_run else ""
        past = "is" if dry_run else "was"
        session.result(f"  {ref.name}: {would}{now}" + (f" ({past} {short(ref.before)})" if ref.before else ""))
    if done.operation:
        session.result(f"To redo: `erestore undo {short(done.operation)}`.")


def _styled_name(name: str) -> str:
    return click.style(name, fg="green")


def _oid(oid: str) -> str:
    return click.style(short(oid), fg="yellow")
