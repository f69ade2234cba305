"""Commands that re-encode a variant: rebase, flatten."""

from __future__ import annotations

import click

from erestore.cli.derived import (
    conflicts_as_data,
    headline,
    max_error_option,
    message_options,
    name_option,
    notice_decisions,
    notice_lost_remainders,
    one_of,
    result_of_version,
)
from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import plural, printable, size_text
from erestore.errors import UsageError
from erestore.report.json_values import json_text


@verb(
    "rebase",
    "Put a variant on another base.",
    example="erestore rebase task-a --onto roberta-large-v2 --preserve --name task-a-v2\n"
    "erestore rebase task-a --onto roberta-large-v2 --carry --name task-a-carried",
)
@click.argument("revision")
@click.option("--onto", required=True, metavar="BASE", help="The new base, of the same architecture.")
@one_of(
    "sense",
    {
        "carry": ("change", "Add what the variant changed to the new base."),
        "preserve": ("weights", "Keep the variant's weights, re-encoded against the new base."),
    },
)
@one_of(
    "choose",
    {
        "ours": (
            "ours",
            "With --carry, on a conflict take the new base's value.",
        ),
        "theirs": ("theirs", "With --carry, on a conflict take the variant's value."),
    },
)
@name_option(required=True)
@max_error_option("Maximum fraction of the squared norm of the result's change to the new base")
@message_options
@json_option
@click.pass_obj
def rebase(
    session: Session,
    *,
    revision: str,
    onto: str,
    sense: str | None,
    choose: str | None,
    name: str,
    max_error: float | None,
    message: str,
    author: str | None,
    as_json: bool,
) -> None:
    """Put the variant REVISION on another base, in one of two ways that give different models.

    With --preserve its weights stay what they are (those of an exact variant to the bit), and take less space where the new
    base is nearer. With --carry what it changed of its old base is added to the new one, as if it had been tuned from that.
    Where addition makes no sense (integers, quantised weights, files of weights that are not read) the value of the side that
    changed it is taken; if both did, that is a conflict, and nothing is stored without --ours or --theirs.
    """
    if sense is None:
        raise UsageError(
            "Missing --preserve or --carry.", hint="Add --preserve (the weights stay) or --carry (the change is moved)."
        )
    with session.open() as store, progress_bar(session) as progress, conflicts_as_data(as_json=as_json):
        store.author = author or store.author
        done = store.rebase(
            revision,
            onto=onto,
            name=name,
            carry=sense == "change",
            choose=choose,
            max_error=max_error,
            message=message,
            progress=progress,
        )
    if as_json:
        click.echo(json_text(done))
        return
    head = headline(done.ref, done.commit)
    lost = "exact" if done.exact else f"lost {done.rebase_error:.3g} of what it changes of that"
    session.result(f"{head} {size_text(done.stored_bytes)}, the {done.kept} on {done.base}; {lost}")
    result_of_version(session, done.ref, done.previous)
    notice_lost_remainders(session, done.loses_exact)
    notice_decisions(session, done.chosen, done.notes)


@verb(
    "flatten",
    "Encode a sum of residuals as one.",
    example="erestore flatten soup\nerestore flatten task-a --name task-a-flat --max-error 1e-4",
)
@click.argument("revision")
@name_option("the next version of REVISION, a branch")
@max_error_option(
    "Maximum fraction of the squared norm of the variant's total change to its base",
    default="0.001, or a quarter of what was lost before, if that is known and less",
)
@message_options
@json_option
@click.pass_obj
def flatten(
    session: Session,
    *,
    revision: str,
    name: str | None,
    max_error: float | None,
    message: str,
    author: str | None,
    as_json: bool,
) -> None:
    """Encode what the variant REVISION adds to its base as one residual, so that a checkout applies a single residual.

    Long chains and merges of many have as many residuals as commits went into them. Exact variants stay exact.
    """
    with session.open() as store, progress_bar(session) as progress:
        store.author = author or store.author
        done = store.flatten(revision, name=name, max_error=max_error, message=message, progress=progress)
    if as_json:
        click.echo(json_text(done))
        return
    head = headline(done.ref, done.commit)
    if done.unchanged:
        session.result(f"{head} Nothing to flatten: it has {plural(done.before.terms, 'residual')}.")
        return
    before, after = done.before, done.after
    if before == after:
        residuals = plural(before.terms, "residual")
        session.result(f"{head} Nothing to flatten: it has the value of {printable(revision)}, which has {residuals}.")
        return
    session.result(
        f"{head} {plural(before.terms, 'residual')} of {size_text(before.residual_bytes)} became "
        f"{plural(after.terms, 'residual')} of {size_text(after.residual_bytes)}"
    )
    lost = "exact" if done.exact else f"lost {done.flatten_error:.3g} of what the variant changed of {done.base}"
    session.result(f"  total rank {before.rank:.3g}, now {after.rank:.3g}; {lost}")
