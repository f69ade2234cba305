"""Commands that look after a store: status, du, gc, fsck."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import date_text, error_text, listed, minute_text, plural, printable, short, size_text, table
from erestore.report.json_values import json_text

if TYPE_CHECKING:
    from erestore.ops.drop_exact import DropResult
    from erestore.ops.du import DuResult, Selection
    from erestore.ops.fsck import Damage, FsckResult
    from erestore.ops.gc import GcResult
    from erestore.ops.status import StatusResult

CORRUPT = 4
"""Exit code of an fsck that found damage."""


@verb("status", "Show what the store holds.", example="erestore status")
@json_option
@click.pass_obj
def status(session: Session, *, as_json: bool) -> None:
    """Show what the store holds: bases, variants, size, and what happened last."""
    with session.open() as store:
        result = store.status()
    if as_json:
        click.echo(json_text(result))
        return
    click.echo(table(list(_status_rows(result))))
    if result.unreachable_objects:
        session.notice(
            f"Unreachable: {size_text(result.unreachable_bytes)} in {plural(result.unreachable_objects, 'object')}; "
            "`erestore gc` frees it after the grace period."
        )


def _status_rows(result: StatusResult) -> Iterator[list[str]]:
    yield ["store", result.store]
    counts = (
        plural(result.bases, "base"),
        plural(result.variants, "variant"),
        plural(result.tags, "tag"),
        plural(result.commits, "commit"),
    )
    yield ["holds", ", ".join(counts)]
    yield ["size", f"{size_text(result.stored_bytes)} in {plural(result.objects, 'object')}"]
    if result.last:
        what = f"{result.last.ref}: {printable(result.last.message)}"
        yield ["last", f"{what}, {date_text(result.last.time)} (operation {short(result.last.operation)})"]
    if result.running:
        yield ["running", f"{plural(result.running, 'operation')} writing now, or killed less than an hour ago"]


@verb("du", "Show what takes how much space.", example="erestore du\nerestore du task-mnli task-qqp")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@json_option
@click.pass_obj
def du(session: Session, *, names: tuple[str, ...], as_json: bool) -> None:
    """Show what takes how much space, and what separate checkpoints would take.

    "own" is reachable from this name only, so roughly what deleting it would free; "shared" is reachable from others too. With
    NAMEs (branches or tags), also show what these take together and what deleting all of them would free.
    """
    with session.open() as store, progress_bar(session) as progress:
        result = store.du(names, progress=progress)
    if as_json:
        click.echo(json_text(result))
        return
    if result.variants:
        rows = [
            [
                click.style(usage.name, fg="green"),
                usage.kind,
                size_text(usage.own_bytes),
                size_text(usage.shared_bytes),
                size_text(usage.original_bytes),
            ]
            for usage in result.variants
        ]
        header = ["name", "kind", "own", "shared", "as a checkpoint"]
        click.echo(table(rows, right=(2, 3, 4), header=header))
        click.echo()
    click.echo(_total_text(result) if result.selection is None else _selection_text(result.selection))


def _selection_text(selection: Selection) -> str:
    size = size_text(selection.own_bytes + selection.shared_bytes)
    lines = [f"Together {size}, of which {size_text(selection.own_bytes)} is reachable from no other name."]
    if selection.kept_for:
        lines.append(f"Needed by {listed(selection.kept_for)}.")
    if not selection.freed_bytes:
        return "\n".join([*lines, "Deleting all of these frees nothing."])
    already = (
        f", {size_text(selection.unreachable_bytes)} of it unreachable already" if selection.unreachable_bytes else ""
    )
    lines.append(
        f"Deleting all of these frees {size_text(selection.freed_bytes)}{already}, once the reflog and the grace period have "
        "passed or with `erestore gc --reflog-days 0 --grace-days 0`."
    )
    return "\n".join(lines)


def _total_text(result: DuResult) -> str:
    text = f"The store takes {size_text(result.stored_bytes)}"
    if result.other_bytes:
        text += f", {size_text(result.other_bytes)} of it unreachable"
    if not result.variants:
        return f"{text}."
    times = f" ({result.saved_ratio:.1f} times as much)" if result.saved_ratio and result.saved_ratio >= 1 else ""
    return f"{text}; separate checkpoints would take {size_text(result.separate_bytes)}{times}."


@verb(
    "gc",
    "Delete unreachable objects.",
    example="erestore gc --dry-run\nerestore gc\nerestore gc --grace-days 0\nerestore gc --drop-exact task-mnli",
)
@click.option("-n", "--dry-run", is_flag=True, help="List what would be done, without doing it.")
@click.option(
    "--grace-days",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Delete objects unreachable for more than DAYS; 0 deletes at once. Default: gc.grace_days, 14.",
)
@click.option(
    "--reflog-days",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="How long reflog entries keep objects alive. Default: gc.reflog_days, 90; for deleted names "
    "gc.reflog_deleted_days, 30.",
)
@click.option(
    "--drop-exact",
    metavar="REF",
    help="First drop the exact remainder of this branch and keep the lossy part; final once its reflog entry expires.",
)
@json_option
@click.pass_obj
def gc(
    session: Session,
    *,
    dry_run: bool,
    grace_days: float | None,
    reflog_days: float | None,
    drop_exact: str | None,
    as_json: bool,
) -> None:
    """Delete unreachable objects.

    Objects unreachable from every name and its reflog are condemned by one collection and deleted by a later one, after the
    grace period. Reachable objects are never touched.
    """
    with session.open() as store, progress_bar(session) as progress:
        dropped = None if drop_exact is None else store.drop_exact(drop_exact, dry_run=dry_run)
        done = store.gc(grace_days=grace_days, reflog_days=reflog_days, dry_run=dry_run, progress=progress)
        is_freed = dropped is not None and not store.objects.exists(dropped.patch)
        settings = {"gc.reflog_days": reflog_days, "gc.grace_days": grace_days}
        days = [store.setting(key) if value is None else value for key, value in settings.items()]
    if as_json:
        click.echo(json_text({**vars(done), "dropped": dropped}))
        return
    if dropped is not None:
        for line in _drop_lines(dropped, *days, is_freed=is_freed):
            session.result(line)
    for line in _gc_lines(done):
        session.result(line)
    if done.waiting:
        session.notice(f"Nothing was deleted: {done.waiting}")


def _drop_lines(dropped: DropResult, reflog_days: float, grace_days: float, *, is_freed: bool) -> Iterator[str]:
    done = "Would drop" if dropped.after is None else "Dropped"
    left = error_text(dropped.relative_error, exact=False)
    yield f"{done} the exact remainder of {dropped.ref} (of {short(dropped.before)}), {size_text(dropped.bytes)}; {left}."
    if is_freed:
        return
    when = f"after {reflog_days:g} days, when its reflog entry expires, and {grace_days:g} days of grace"
    yield f"Garbage collection frees that {when}; `erestore undo` takes it back until then."


def _gc_lines(done: GcResult) -> Iterator[str]:
    for garbage in done.objects:
        yield f"would {garbage.action} {short(garbage.oid)}  {garbage.kind or 'damaged'}  {size_text(garbage.size)}"
    if done.waiting:
        return
    deleted = plural(done.deleted_objects, "object")
    what = f"Would delete {deleted}" if done.dry_run else f"Deleted {deleted}"
    yield f"{what}, {size_text(done.freed_bytes)}; {done.kept_objects:,} kept."
    if done.condemned_objects:
        yield (
            f"{plural(done.condemned_objects, 'object')}, {size_text(done.condemned_bytes)}, will be deleted by a "
            "collection after the grace period."
        )
    if done.reflog:
        shown = [
            f"{hold.name}{' (deleted)' if hold.deleted else ''} until {minute_text(hold.until)}" for hold in done.reflog
        ]
        yield (
            f"The reflog keeps former commits for undo: {printable(listed(shown))}. Objects that only they need are deleted "
            "after that and the grace period, or now with --reflog-days 0 --grace-days 0."
        )
    if done.expired_entries:
        yield f"{plural(done.expired_entries, 'old entry', 'old entries')} of reflogs expired."


@verb("fsck", "Look for damage.", example="erestore fsck\nerestore fsck --deep")
@click.option("--read-data", is_flag=True, help="Also read and verify every stored byte.")
@click.option("--deep", is_flag=True, help="Also decode every tensor of every variant; includes --read-data.")
@json_option
@click.pass_context
def fsck(ctx: click.Context, *, read_data: bool, deep: bool, as_json: bool) -> None:
    """Look for damage, and change nothing.

    Exits with 0 only if every reachable object is present and intact.
    """
    session: Session = ctx.obj
    with session.open() as store, progress_bar(session) as progress:
        result = store.fsck(read_data=read_data, deep=deep, progress=progress)
    if as_json:
        click.echo(json_text(result))
    else:
        for line in _fault_lines(result):
            click.echo(line)
        looked = f"{plural(result.checked, 'object')} checked"
        unreachable = f", {len(result.unreachable):,} unreachable" if result.unreachable else ""
        state = "no damage" if result.clean else "damage found"
        session.result(f"{looked}{unreachable}: {state}.")
    if not result.clean:
        ctx.exit(CORRUPT)


def _fault_lines(result: FsckResult) -> Iterator[str]:
    for kind, damages in (("corrupt", result.corrupt), ("missing", result.missing)):
        for damage in damages:
            yield f"{click.style(kind, fg='red')} {damage.kind} {damage.oid}{_needed_by(damage)}\n  {damage.reason}"
    for entry in result.entries:
        yield f"{click.style('corrupt', fg='red')} {printable(entry.key)}\n  {printable(entry.reason)}"


def _needed_by(damage: Damage) -> str:
    return f", needed by {printable(listed(damage.needed_by))}" if damage.needed_by else ""
